"""Sites: places in a model where tensors read the same inputs, and share one second moment."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Last part of a GGUF name → where in its layer it reads.
_READS = {
    "attn_q": "attn_in",
    "attn_k": "attn_in",
    "attn_v": "attn_in",
    "attn_qkv": "attn_in",
    "attn_output": "attn_out",
    "ffn_gate": "ffn_in",
    "ffn_up": "ffn_in",
    "ffn_down": "ffn_mid",
    "ffn_gate_inp": "ffn_in",
    "ffn_gate_exps": "ffn_in",
    "ffn_up_exps": "ffn_in",
    "ffn_down_exps": "ffn_mid",
    "ffn_gate_inp_shexp": "ffn_in",
    "ffn_gate_shexp": "ffn_in",
    "ffn_up_shexp": "ffn_in",
    "ffn_down_shexp": "ffn_shared_mid",
    "shortconv.in_proj": "conv_in",
    "shortconv.out_proj": "conv_out",
    "attn_gate": "attn_in",
    "ssm_in": "attn_in",
    "ssm_alpha": "attn_in",
    "ssm_beta": "attn_in",
    "ssm_out": "ssm_out",
    "inp_gate": "layer_in",
    "proj": "layer_mid",
}
_READS_BESIDE = {
    "ffn_gate_inp": "router_in",
    "ffn_gate_exps": "ffn_exps_in",
    "ffn_up_exps": "ffn_exps_in",
    "ffn_down_exps": "ffn_exps_mid",
}
"""The same of experts beside a feed-forward part for all tokens: each has a norm of its own."""
HEAD = "head"
_LAYER = re.compile(r"blk\.(\d+)\.([\w.]+)\.weight")


def has_both(names: Iterable[str]) -> bool:
    """Whether a layer has experts, and beside them a feed-forward part for all (Gemma 4)."""
    names = set(names)
    return any("_exps" in name and name.replace("_exps", "") in names for name in names)


def site_of(name: str, *, tied: bool, both: bool = False) -> str | None:
    """Site a GGUF tensor reads at, as `blk.3.ffn_in` or `head`; None if it multiplies nothing.

    Args:
        name: The tensor.
        tied: The embedding is the head.
        both: As `has_both` says of the model.
    """
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return HEAD
    match = _LAYER.fullmatch(name)
    reads = _READS | _READS_BESIDE if both else _READS
    return f"blk.{match[1]}.{reads[match[2]]}" if match and match[2] in reads else None


def sites_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Every site with the tensors that read there, in order."""
    names = list(names)
    tied, both = "output.weight" not in names, has_both(names)
    tensors: dict[str, list[str]] = {}
    for name in names:
        if (site := site_of(name, tied=tied, both=both)) is not None:
            tensors.setdefault(site, []).append(name)
    return tensors


def is_stack(name: str) -> bool:
    """Whether a GGUF tensor holds a matrix for each expert."""
    return name.endswith("_exps.weight")
