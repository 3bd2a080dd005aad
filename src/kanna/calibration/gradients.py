"""How sensitive the loss of the whole model is to each output row, by a backward pass.

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
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanna import families
from kanna._util.disk import explain, folder_size
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration.backward_pass import EMBEDDING, LAYER_EMBEDDING, BackwardPass
from kanna.calibration.network import Network
from kanna.calibration.windows import CalibrationWindows
from kanna.errors import FormatError, KannaError
from kanna.families import gguf_view
from kanna.families.views import Computed
from kanna.formats import not_numbers, safetensors
from kanna.hardware.memory import memory
from kanna.model import F32, Model, columns, num_rows, num_weights

FILE = "gradients.safetensors"
STATE_FOLDER = "gradients-work"
TOKENS = 6144
"""Tokens of the backward pass; the mean squares settle early."""
LOGITS = 1 << 26
"""Logits of one pass at most: the large vocabularies read shorter windows."""


def vocabulary_of(model: Model) -> int:
    """Rows of the embedding."""
    return num_rows(model.tensors["token_embd.weight"])


def windows_read(model: Model, length: int) -> tuple[int, int]:
    """Windows of a text that the pass reads at most, and tokens of each, of windows of `length`."""
    length = max(64, min(length, LOGITS // vocabulary_of(model)))
    return max(1, TOKENS // length), length


def bytes_needed(model: Model) -> int:
    """Memory of the pass: the largest layer or the head in float32, activations of one window."""
    layers: dict[str, int] = {}
    for name, tensor in model.tensors.items():
        if name.startswith("blk."):
            layer = name.split(".")[1]
            layers[layer] = layers.get(layer, 0) + num_weights(tensor)
    head = num_weights(model.tensors["token_embd.weight"])
    return 4 * max(head, *layers.values()) + 6 * 4 * LOGITS


def disk_needed(model: Model, tokens: int = TOKENS) -> int:
    """Disk of the pass over so many tokens: hidden states before every layer, in float32."""
    hidden = columns(model.tensors["token_embd.weight"])
    layers = len({name.split(".")[1] for name in model.tensors if name.startswith("blk.")})
    return 4 * min(TOKENS, tokens) * hidden * (layers + 3)


def lacking(model: Model, folder: Path) -> str:
    """What the pass takes of memory or disk that is not free, in words; "" where it has room.

    Args:
        model: The model.
        folder: Folder of the statistics.
    """
    free = shutil.disk_usage(folder).free + folder_size(folder / STATE_FOLDER)
    wanted = {
        "memory": (bytes_needed(model), memory().available),
        f"disk in {folder}": (disk_needed(model), free),
    }
    for what, (needed, free) in wanted.items():
        if needed > free:
            needs = f"a backward pass takes {format_size(needed)} of {what}"
            return f"{needs}, {format_size(free)} are free"
    return ""


def gradients(
    model: Model,
    windows: CalibrationWindows,
    folder: Path,
    key: str,
    *,
    device: str | None,
    progress: Progress,
) -> list[str]:
    """Write the mean square gradients of every matrix, unless they are there for the same key.

    Returns remarks on memory of the device that did not suffice. Raises KannaError when one of the
    gradients is not a number; no file is left then.

    Args:
        model: The model.
        windows: Calibration text; the first TOKENS tokens of it are read.
        folder: Folder of the statistics.
        key: Hash of what the gradients depend on.
        device: cpu, cuda or mps; None: an accelerator when there is one.
        progress: Where progress is reported.
    """
    from safetensors import SafetensorError, safe_open

    path, digest = folder / FILE, _digest(key)
    with suppress(OSError, SafetensorError), safe_open(str(path), framework="np") as file:
        if (file.metadata() or {}).get("key", "").partition(":")[0] == digest:
            return []
    path.unlink(missing_ok=True)
    most, length = windows_read(model, windows.ids.shape[1])
    ids = windows.ids[: max(0, most - windows.first), :length]
    if not len(ids):
        return []  # of this shard nothing is read
    backward = BackwardPass(
        model,
        ids,
        folder / STATE_FOLDER,
        digest,
        first=windows.first,
        device=device,
        progress=progress,
    )
    try:
        by_module = backward.run()
    except KannaError:  # it would end there again
        shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)  # what others need of the disk
        raise explain(error, folder) from error
    _require_numbers(by_module)
    safetensors.save(
        path,
        {
            name: np.ascontiguousarray(v)
            for name, v in _as_gguf(backward.network, by_module).items()
        },
        _marks(digest, ids.size),
    )
    return backward.network.remarks


def _require_numbers(by_module: dict[str, F32]) -> None:
    if invalid := [name for name, rows in by_module.items() if not np.isfinite(rows).all()]:
        raise KannaError(
            f"the gradients of {invalid[-1]} are not numbers",
            expected="a model whose gradients float32 holds",
            todo=not_numbers.GROWN,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanGradients:
    """Mean square gradients of a whole text, from those of its shards.

    Attributes:
        rows: f32 [rows] by tensor.
        tokens: That were read.
    """

    rows: dict[str, F32]
    tokens: int

    @classmethod
    def of(cls, parts: Sequence[Path]) -> MeanGradients:
        """Of the folders of the statistics of all shards that have some.

        Raises:
            FormatError: One of the files is damaged, or of another model.
        """
        from safetensors import SafetensorError, safe_open

        sums: dict[str, NDArray[np.float64]] = {}
        total = 0
        for path in [part / FILE for part in parts]:
            try:
                with safe_open(str(path), framework="np") as file:
                    tokens = int(file.metadata()["key"].partition(":")[2])
                    for name in file.keys():  # noqa: SIM118 - no mapping
                        rows = file.get_tensor(name).astype(np.float64) * tokens
                        if not np.isfinite(rows).all():
                            raise ValueError(f"values of {name} are not numbers")
                        sums[name] = rows + sums[name] if name in sums else rows
            except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
                raise FormatError(
                    f"{path} cannot be read: {error}", todo="calibrate again"
                ) from error
            total += tokens
        means = {name: (rows / total).astype(np.float32) for name, rows in sums.items()}
        return cls(rows=means, tokens=total)

    def save(self, folder: Path, key: str) -> None:
        """Write them beside the statistics of the whole text; `key` as `gradients` has it."""
        safetensors.save(folder / FILE, self.rows, _marks(_digest(key), self.tokens))


def _marks(digest: str, tokens: int) -> dict[str, str]:
    """Metadata of the file; one entry, since safetensors writes several in any order."""
    return {"key": f"{digest}:{tokens}"}


def _digest(key: str) -> str:
    return hashlib.sha256(json.dumps([key, TOKENS, LOGITS]).encode()).hexdigest()


def read(folder: Path) -> dict[str, F32]:
    """The mean square gradients by tensor; {} when they were not computed."""
    from safetensors.numpy import load_file

    return load_file(folder / FILE) if (folder / FILE).is_file() else {}


def _as_gguf(network: Network, by_module: dict[str, F32]) -> dict[str, F32]:
    """The same under the names and in the row orders of GGUF."""
    model = network.model
    out: dict[str, F32] = {}
    for name, rows in by_module.items():
        if name in (EMBEDDING, LAYER_EMBEDDING):
            out[name] = rows
            continue
        tied = name == "lm_head" and "output.weight" not in model.tensors
        tensor, expert = ("token_embd.weight", None) if tied else network.weights.place(name)
        if len(model.tensors[tensor].shape) < 2:
            continue
        parts = network.weights.parts.get(f"{name}.weight", [])
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
