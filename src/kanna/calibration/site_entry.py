"""What the index of statistics says of a site, with how far its second moment is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna.calibration import shrinkage
from kanna.calibration.devices import CPU
from kanna.calibration.shrinkage import ExpertInputs, Trust
from kanna.calibration.sites import is_stack
from kanna.model import Tensor


def site_entry(
    site: str,
    file: str,
    arrays: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    shard: bool,
    device: str = CPU,
) -> dict[str, Any]:
    """The entry of one site.

    Args:
        site: Its name.
        file: Name of the file that holds its arrays.
        arrays: Those of the file, see `statistics`.
        tensors: The matrices that read there.
        shard: Whether the arrays are of a part of the text: how far they are trusted is then
            decided when the parts are merged.
        device: Where that is tried.
    """
    second = arrays[f"{site}.second"]
    entry: dict[str, Any] = {
        "file": file,
        "tensors": [tensor.name for tensor in tensors],
        "columns": second.shape[0] * second.shape[1],
        "block": second.shape[1],
    }
    if f"{site}.experts" in arrays:
        stacks = [tensor for tensor in tensors if is_stack(tensor.name)]
        inputs = ExpertInputs.of(site, arrays)
        trust = Trust() if shard else shrinkage.choose_for_experts(stacks, inputs, device)
        entry |= {"shrink": trust.shrink, "shared": trust.shared}
        return entry | {"experts": arrays[f"{site}.tokens"].tolist()}
    held = arrays[f"{site}.held"]
    chosen = shrinkage.DEFAULT
    if not shard:
        chosen = shrinkage.choose(list(tensors), second, held, device)
    return entry | {"shrink": chosen}
