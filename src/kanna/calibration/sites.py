"""Sites: places in a model where tensors read the same inputs, and share one second moment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kanna.model import Model

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
_READS_SCALED = {
    "ffn_gate_exps": "ffn_exps_in",
    "ffn_up_exps": "ffn_exps_in",
    "ffn_down_exps": "ffn_exps_mid",
}
"""The same of experts whose inputs the router scales."""
_READS_BESIDE = {"ffn_gate_inp": "router_in", **_READS_SCALED}
"""The same of experts beside a feed-forward part for all tokens: each has a norm of its own."""
_SCALED = frozenset({"llama4"})
"""Architectures whose routers scale what experts read, not what they give."""
HEAD = "head"
_LAYER = re.compile(r"blk\.(\d+)\.([\w.]+)\.weight")


def own_reads(model: Model) -> Mapping[str, str]:
    """What reads elsewhere in this model than it does in most: the last part of a name → where."""
    if model.family in _SCALED:
        return _READS_SCALED
    names = model.tensors
    both = any("_exps" in name and name.replace("_exps", "") in names for name in names)
    return _READS_BESIDE if both else {}


def site_of(name: str, *, tied: bool, own_reads: Mapping[str, str]) -> str | None:
    """Site a GGUF tensor reads at, as `blk.3.ffn_in` or `head`; None if it multiplies nothing.

    Args:
        name: The tensor.
        tied: The embedding is the head.
        own_reads: As `own_reads` says of the model.
    """
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return HEAD
    match = _LAYER.fullmatch(name)
    where = match and (own_reads.get(match[2]) or _READS.get(match[2]))
    return f"blk.{match[1]}.{where}" if match and where else None


def sites_of(model: Model) -> dict[str, list[str]]:
    """Every site with the tensors that read there, in order."""
    tied, own = "output.weight" not in model.tensors, own_reads(model)
    tensors: dict[str, list[str]] = {}
    for name in model.tensors:
        if (site := site_of(name, tied=tied, own_reads=own)) is not None:
            tensors.setdefault(site, []).append(name)
    return tensors


def is_stack(name: str) -> bool:
    """Whether a GGUF tensor holds a matrix for each expert."""
    return name.endswith("_exps.weight")
