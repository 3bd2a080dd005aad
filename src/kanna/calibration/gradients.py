"""How sensitive the loss of the whole model is to each output row, by one backward pass.

With labels drawn from the model's own distribution, the mean square of the gradient at an output is
its share of the Fisher information: an error δ there costs about ½ E[g²] δ² nats of KL divergence
(second order, tokens and rows taken as independent). Saved as gradients.safetensors in the folder
of the statistics:

    TENSOR            f32 [rows]    mean square gradient of each output row, per token of the text;
                                    of a stack, the rows of all experts in order
    embedding         f32 [hidden]  the same for the columns of the embedding
    layer_embedding   f32 [columns] and of the embeddings that each layer has of its own
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kanna import families
from kanna._util.progress import Progress
from kanna.calibration.network import Network, torch_modules
from kanna.calibration.windows import CalibrationWindows
from kanna.errors import KannaError
from kanna.families import gguf_view
from kanna.families.views import Computed
from kanna.formats import safetensors
from kanna.model import F32, Model, num_rows

FILE = "gradients.safetensors"
EMBEDDING, LAYER_EMBEDDING = "embedding", "layer_embedding"
TOKENS = 6144
"""Tokens of the backward pass; the mean squares settle early."""
_LOGITS = 1 << 26
"""Logits of one pass at most: the large vocabularies read shorter windows."""
_SEED = 20260101


def bytes_needed(model: Model) -> int:
    """Memory of a backward pass: the weights in float32, and activations of one window."""
    return 4 * model.num_parameters + 6 * 4 * _LOGITS


def gradients(
    model: Model,
    windows: CalibrationWindows,
    folder: Path,
    key: str,
    *,
    device: str | None,
    progress: Progress,
) -> None:
    """Write the mean square gradients of every matrix, unless they are there for the same key.

    Raises KannaError when one of them is not a number; no file is left then.

    Args:
        model: The model.
        windows: Calibration text; the first TOKENS tokens of it are read.
        folder: Folder of the statistics.
        key: Hash of what the gradients depend on.
        device: cpu, cuda or mps; None: an accelerator when there is one.
        progress: Where progress is reported.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    digest = hashlib.sha256(json.dumps([key, TOKENS, _LOGITS]).encode()).hexdigest()
    with suppress(OSError, SafetensorError), safe_open(str(path), framework="np") as file:
        if (file.metadata() or {}).get("key") == digest:
            return
    path.unlink(missing_ok=True)
    network = Network(model, device)
    by_module = _backward(network, windows, progress)
    if invalid := [name for name, rows in by_module.items() if not np.isfinite(rows).all()]:
        raise KannaError(
            f"the gradients of {invalid[-1]} are not numbers",
            expected="a model whose logits are finite",
            todo="check the weights: `kanna inspect SRC --tensors`",
        )
    safetensors.save(
        path,
        {name: np.ascontiguousarray(v) for name, v in _as_gguf(network, by_module).items()},
        {"key": digest},
    )


def read(folder: Path) -> dict[str, F32]:
    """The mean square gradients by tensor; {} when they were not computed."""
    from safetensors.numpy import load_file

    return load_file(folder / FILE) if (folder / FILE).is_file() else {}


def _backward(network: Network, windows: CalibrationWindows, progress: Progress) -> dict[str, F32]:
    torch, _ = torch_modules()
    whole = network.whole().requires_grad_(False)
    sums: dict[str, Any] = {}

    def listen(name: str) -> Any:
        def hook(_module: Any, _given: Any, out: Any) -> None:
            def add(gradient: Any) -> None:
                squares = gradient.reshape(-1, gradient.shape[-1]).square().sum(0)
                sums[name] = sums[name] + squares if name in sums else squares

            if out.requires_grad:
                out.register_hook(add)

        return hook

    def start(name: str, table: Any) -> Any:
        # Of the table, not of what leaves it: Gemma multiplies its rows.
        power = float(getattr(table, "scalar_embed_scale", 1.0)) ** 2

        def hook(_module: Any, _given: Any, out: Any) -> Any:
            def add(gradient: Any) -> None:
                squares = gradient[0].square().sum(0) * power
                sums[name] = sums[name] + squares if name in sums else squares

            out.requires_grad_(True)
            out.register_hook(add)
            return out

        return hook

    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(listen(name))
    embedding = whole.get_input_embeddings()
    embedding.register_forward_hook(start(EMBEDDING, embedding))
    if (table := getattr(whole.model, "embed_tokens_per_layer", None)) is not None:
        table.register_forward_hook(start(LAYER_EMBEDDING, table))
    vocabulary = embedding.weight.shape[0]
    length = max(64, min(windows.ids.shape[1], _LOGITS // vocabulary))
    chosen = windows.ids[: max(1, TOKENS // length)]
    torch.manual_seed(_SEED)
    progress.start("gradients", len(chosen), "windows")
    count = 0
    for ids in chosen:
        inputs = torch.from_numpy(ids[:length].astype(np.int64))[None].to(network.device)
        logits = whole(input_ids=inputs, use_cache=False).logits[0]
        network.check(logits, "the head")
        log_probability = torch.log_softmax(logits, -1)
        labels = torch.multinomial(log_probability.detach().exp(), 1)
        log_probability.gather(1, labels).sum().backward()
        count += length
        progress.advance(1)
    progress.finish()
    return {name: (total / count).cpu().numpy().astype(np.float32) for name, total in sums.items()}


def _as_gguf(network: Network, by_module: dict[str, F32]) -> dict[str, F32]:
    """The same under the names and in the row orders of GGUF."""
    model = network.model
    out: dict[str, F32] = {}
    for name, rows in by_module.items():
        if name in (EMBEDDING, LAYER_EMBEDDING):
            out[name] = rows
            continue
        tied = name == "lm_head" and "output.weight" not in model.tensors
        tensor, expert = ("token_embd.weight", None) if tied else network.place(name)
        if len(model.tensors[tensor].shape) < 2:
            continue
        parts = network.parts.get(f"{name}.weight", [])
        if expert is None and len(parts) > 1:  # gate above up, in one matrix
            sizes = [num_rows(model.tensors[part]) for part, _ in parts]
            split = np.split(rows, np.cumsum(sizes)[:-1])
            out |= {part: own for (part, _), own in zip(parts, split, strict=True)}
            continue
        if expert is None:
            view = Computed(tensor, rows)
            if families.column_order(model, tensor) is None:  # else its columns are moved alone
                view = gguf_view(model, tensor, view)
            out[tensor] = view.rows(0, 1)[0]
            continue
        # An expert that no token went to has no gradient.
        stack = out.setdefault(tensor, np.zeros(num_rows(model.tensors[tensor]), np.float32))
        stack[expert * len(rows) : (expert + 1) * len(rows)] = rows
    return out
