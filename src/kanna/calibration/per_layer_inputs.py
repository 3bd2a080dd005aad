"""What layers read beside hidden states where a model has embeddings for each (Gemma 3n, Gemma 4).

The second table is read where its rows are asked for, one layer's columns at a time.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32, Tensor

TABLE = "model.embed_tokens_per_layer"
PROJECTION = "model.per_layer_model_projection"
NORM = "model.per_layer_projection_norm"


class LayerGradients(Protocol):
    """Where the gradients of a layer's own input go."""

    def start(self, rows: Any) -> Any:
        """The embeddings of a window's tokens, as the start of a graph."""
        ...

    def watch(self, name: str, layer: int, values: Any) -> None:
        """Take the gradients of values that a layer reads of a table or a projection."""
        ...


class PerLayerInputs:
    """The further inputs of the layers, for windows of tokens."""

    def __init__(
        self,
        body: Any,
        tensors: dict[str, Tensor],
        used: NDArray[np.int32],
        places: NDArray[np.int64],
        embedded: Any,
    ) -> None:
        """Take what they are computed from.

        Args:
            body: The model of transformers, without weights.
            tensors: Weights by Hugging Face name.
            used: Tokens that occur, [n].
            places: Which of them each token of each window is, [windows, tokens].
            embedded: Their scaled embeddings, f32 [n, hidden].
        """
        self._body, self._tensors, self._used, self._places = body, tensors, used, places
        self._embedded = embedded
        self._width = int(body.hidden_size_per_layer_input)

    def move(self, device: str) -> None:
        """Compute on another device from here on."""
        self._embedded = self._embedded.to(device)

    def of_layer(self, index: int, norm: Any, gradients: LayerGradients | None = None) -> Any:
        """A function of the number of a window: the input of layer `index`, f32 [tokens, width].

        Args:
            index: The layer.
            norm: The normalisation of what the embeddings are projected to.
            gradients: Where gradients of what it is made of go; None: none are taken.
        """
        import torch

        body, columns = self._body, slice(index * self._width, (index + 1) * self._width)
        table = self._tensors[f"{TABLE}.weight"]
        known = [int(t) if t < table.shape[0] else 0 for t in self._used]
        rows = [table.rows(t, t + 1)[:, columns] for t in known]
        own = (
            torch.from_numpy(np.concatenate(rows)) * body.embed_tokens_per_layer.scalar_embed_scale
        )
        weight: F32 = self._tensors[f"{PROJECTION}.weight"].rows(columns.start, columns.stop)
        projection = torch.from_numpy(np.array(weight)).T.to(self._embedded)
        own = own.to(self._embedded)

        def combined(projected: Any, own: Any) -> Any:
            projected = norm(projected * body.config.hidden_size**-0.5)
            return (projected + own) * 2**-0.5

        def with_graph(number: int) -> Any:
            assert gradients is not None
            places = torch.from_numpy(self._places[number])
            projected = gradients.start(self._embedded[places]) @ projection
            gradients.watch(PROJECTION, index, projected)
            rows = own[places].requires_grad_()
            gradients.watch(TABLE, index, rows)
            return combined(projected, rows)

        if gradients is not None:
            return with_graph
        every = combined(self._embedded @ projection, own)

        def of_window(number: int) -> Any:
            return every[torch.from_numpy(self._places[number])]

        return of_window
