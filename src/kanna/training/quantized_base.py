"""A base that training holds in few bits: blocks of kanna's encodings, decoded as they are used.

After QLoRA (Dettmers et al. 2023, arXiv:2305.14314), with the blocks of GGUF in the place of NF4. A
matrix is decoded some rows at a time, in the forward and again in the backward pass, so that no
more than those are ever in memory as floats. Embedding and head are held in bfloat16: TRL's loss
multiplies by rows of the head itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kanna import encodings
from kanna._util.progress import Progress
from kanna.encodings import Encoding
from kanna.errors import UnsupportedError
from kanna.model import Tensor
from kanna.sources import open_source

KINDS = {4: ("q4_k", "q4_0"), 8: ("q8_0",)}
"""Encodings by bits: the first whose blocks divide a row."""
_AT_ONCE = 1 << 22
"""Values that are decoded at once: 16 MiB in float32."""


@cache
def _product() -> Any:
    """The product by a matrix in blocks; torch is there when this is called."""
    import torch

    class BlockProduct(torch.autograd.Function):
        """A product by a matrix in blocks, which is decoded again for the gradient."""

        @staticmethod
        def forward(ctx: Any, x: Any, layer: Any) -> Any:
            ctx.layer = layer
            out = x.new_empty((*x.shape[:-1], layer.out_features))
            for start, stop in layer.pieces():
                out[..., start:stop] = x @ layer.decoded(start, stop).T
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            layer, [gradient] = ctx.layer, gradients
            total = gradient.new_zeros((*gradient.shape[:-1], layer.in_features))
            for start, stop in layer.pieces():
                total += gradient[..., start:stop] @ layer.decoded(start, stop)
            return total, None

    return BlockProduct


@cache
def _layers() -> Any:
    """The classes of the layers, made once torch is there."""
    import torch

    product = _product()

    class InBlocks:
        """What both layers share: rows of blocks or of bfloat16, and how they are decoded."""

        def hold(self, data: Any, encoding: Encoding | None, cols: int) -> None:
            self.encoding, self.cols = encoding, cols
            self.register_buffer("weight", data, persistent=False)  # type: ignore[attr-defined]

        def decoded(self, start: int, stop: int) -> Any:
            return self.of_rows(self.weight[start:stop])  # type: ignore[attr-defined]

        def of_rows(self, rows: Any) -> Any:
            if self.encoding is None:
                return rows.float()
            return torch.from_numpy(self.encoding.decode(rows.numpy(), self.cols))

        def pieces(self) -> list[tuple[int, int]]:
            rows, step = len(self.weight), max(1, _AT_ONCE // self.cols)  # type: ignore[attr-defined]
            return [(start, min(rows, start + step)) for start in range(0, rows, step)]

    class BlockLinear(InBlocks, torch.nn.Linear):
        """A linear layer that PEFT puts changes beside."""

        def __init__(self, data: Any, encoding: Encoding | None, old: Any) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = old.in_features, old.out_features
            self.hold(data, encoding, old.in_features)
            self.bias = old.bias

        def forward(self, input: Any) -> Any:
            out = product.apply(input, self)
            return out if self.bias is None else out + self.bias

    class BlockEmbedding(InBlocks, torch.nn.Embedding):
        """An embedding of which the rows that are looked up are decoded."""

        def __init__(self, data: Any, encoding: Encoding | None, old: Any) -> None:
            torch.nn.Module.__init__(self)
            self.num_embeddings, self.embedding_dim = old.num_embeddings, old.embedding_dim
            self.padding_idx = old.padding_idx
            self.hold(data, encoding, old.embedding_dim)

        def forward(self, input: Any) -> Any:
            unique, places = torch.unique(input, return_inverse=True)
            return self.of_rows(self.weight[unique])[places]

    return SimpleNamespace(linear=BlockLinear, embedding=BlockEmbedding)


def load(folder: Path, bits: int, threads: int, progress: Progress) -> Any:
    """A model of transformers whose matrices are in blocks; the floats are never all in memory.

    Args:
        folder: A folder of Hugging Face's.
        bits: One of KINDS.
        threads: Threads to encode with.
        progress: Where the work is reported.

    Raises:
        UnsupportedError: transformers has matrices of it under other names than its files.
    """
    import accelerate
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    with accelerate.init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    source = open_source(folder)
    filler = _Filler(model, source.tensors, bits, threads, progress)
    progress.start("quantize the base", len(source.tensors), "tensors")
    for name, module in list(model.named_modules()):
        filler.fill(name, module)
    progress.finish()
    filler.tie()
    if absent := [n for n, p in model.named_parameters() if p.is_meta]:
        raise _unlike(folder, absent[0])
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(str(folder))
    return model.eval()


def _unlike(folder: Path, name: str) -> UnsupportedError:
    return UnsupportedError(
        f"{folder} has no {name}, as transformers calls a matrix of this model",
        expected="a model whose matrices are linear layers of the names in its files",
        todo="leave --base-bits out",
    )


class _Filler:
    """Puts values into a model that has none yet."""

    def __init__(
        self,
        model: Any,
        tensors: dict[str, Tensor],
        bits: int,
        threads: int,
        progress: Progress,
    ) -> None:
        self.model, self.tensors, self.bits = model, tensors, bits
        self.threads, self.progress = threads, progress

    def fill(self, name: str, module: Any) -> None:
        """Give a module its values, in blocks where it multiplies by them or looks them up."""
        import torch

        for part, parameter in list(module.named_parameters(recurse=False)):
            tensor = self.tensors.get(f"{name}.{part}")
            if tensor is None or tuple(tensor.shape) != tuple(parameter.shape):
                continue
            if part != "weight" or not self._replaced(module, tensor):
                values = tensor.rows(0, tensor.shape[0] if len(tensor.shape) > 1 else 1)
                value = torch.from_numpy(np.array(values, np.float32).reshape(tensor.shape))
                module.register_parameter(part, torch.nn.Parameter(value, requires_grad=False))
            self.progress.advance(1, name)
        tensor = self.tensors.get(f"{name}.weight")
        if tensor is not None and self._replaced(module, tensor):
            kinds, linear = _layers(), isinstance(module, torch.nn.Linear)
            encoding = self._encoding(tensor) if linear and not self._is_head(module) else None
            make = kinds.linear if linear else kinds.embedding
            data = self._held(tensor, encoding)
            self.model.set_submodule(name, make(data, encoding, module))

    def _is_head(self, module: Any) -> bool:
        return module is self.model.get_output_embeddings()

    def _replaced(self, module: Any, tensor: Tensor) -> bool:
        """Whether a layer is held in few bits; one with a forward pass of its own is not."""
        import torch

        if type(module) is torch.nn.Linear and not self._is_head(module):
            return self._encoding(tensor) is not None
        return type(module) in (torch.nn.Linear, torch.nn.Embedding)

    def _encoding(self, tensor: Tensor) -> Encoding | None:
        """What a matrix is held in; None where its rows are no whole number of blocks."""
        every = map(encodings.get, KINDS[self.bits])
        return next((one for one in every if tensor.shape[1] % one.block == 0), None)

    def _held(self, tensor: Tensor, encoding: Encoding | None) -> Any:
        """The rows of a matrix in blocks, uint8 [rows, row bytes], or in bfloat16."""
        import torch

        rows, cols = tensor.shape
        if encoding is None:
            data = torch.empty((rows, cols), dtype=torch.bfloat16)
        else:
            data = torch.empty((rows, encoding.row_bytes(cols)), dtype=torch.uint8)
        step = max(1, _AT_ONCE // cols)
        for start in range(0, rows, step):
            x = np.ascontiguousarray(tensor.rows(start, min(rows, start + step)), np.float32)
            blocks = x if encoding is None else encoding.encode(x, threads=self.threads)
            data[start : start + len(x)] = torch.from_numpy(blocks)
        return data

    def tie(self) -> None:
        """Let a head without values of its own have those of the embedding."""
        head, embedding = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        if head is None or not head.weight.is_meta:
            return
        if type(embedding).__name__ != "BlockEmbedding":
            head.weight = embedding.weight
            return
        made = _layers().linear(embedding.weight, embedding.encoding, head)
        self.model.set_output_embeddings(made)
