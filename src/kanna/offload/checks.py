"""Checks of a run on a device: layers, weights, operators, and its logits beside the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna._util.units import format_size
from kanna.checks import Check
from kanna.evaluation.divergence import compare
from kanna.model import F32
from kanna.offload.placement import CPU

MOST_ERROR = 0.1
"""Root mean square of the difference of logits, as a share of how much the CPU's logits vary.

llama.cpp rounds activations to 8 bits on the CPU and not on GPUs, which costs 0.01 to 0.05 on small
models; a device that computes another function is off by more than 1.
"""
MOST_KL = 0.05
"""Mean KL divergence in nats, CPU ‖ device: what `kanna verify` allows from 8 bits on."""
_ROUNDING = 0.01  # MiB: the log has two digits
_MOST_NAMED = 6


def hold(backend: str, run: dict[str, Any], made: F32, reference: F32) -> list[Check]:
    """Every check of a run.

    Args:
        backend: What was asked for.
        run: What `worker.run` gave for it.
        made: Its logits, f32 [tokens, vocabulary].
        reference: Those of the CPU.
    """
    prompt = run["tokens"]
    compared = [
        _logits("logits, prompt", made[:prompt], reference[:prompt]),
        _logits("logits, one token at a time", made[prompt:], reference[prompt:]),
    ]
    if backend == "cpu":
        return [_nothing_elsewhere(run), *compared]
    names = {device["name"] for device in run["devices"]}
    return [_devices(run), _layers(run, names), _weights(run, names), _operators(run), *compared]


def _devices(run: dict[str, Any]) -> Check:
    shown = [f"{d['name']} ({d['description']})" for d in run["devices"]]
    return Check(name="device", ok=True, detail=f"{', '.join(shown)}; {run['runtime']}")


def _layers(run: dict[str, Any], names: set[str]) -> Check:
    """Every layer, and the output after the last, is on a device."""
    layers: dict[str, str] = run["layers"]
    elsewhere = [number for number, device in layers.items() if device not in names]
    if elsewhere or not layers:
        reason = run["complaint"] or "llama.cpp gave no reason"
        what = f"layers {', '.join(elsewhere)} of {len(layers)} stayed on the CPU" if layers else ""
        return Check(name="layers", ok=False, detail=f"{what or 'no layer was placed'}: {reason}")
    counts = {name: sum(d == name for d in layers.values()) for name in sorted(names)}
    shown = ", ".join(f"{count} on {name}" for name, count in counts.items())
    return Check(name="layers", ok=True, detail=f"{len(layers)} with the output: {shown}")


def _weights(run: dict[str, Any], names: set[str]) -> Check:
    """Tensors lie on a device, but for those that rows are looked up in."""
    on_device = sum(size for buffer, size in run["weights"] if buffer in names)
    elsewhere = sum(size for buffer, size in run["weights"] if buffer not in names)
    allowed = run["input_bytes"]
    slack = _ROUNDING * 2**20 * (1 + len(run["weights"]))
    detail = f"{format_size(on_device)} on the device, {format_size(elsewhere)} in main memory"
    if not on_device:
        return Check(name="weights", ok=False, detail=f"{detail}: nothing was put on the device")
    if elsewhere > allowed + slack:
        more = f": more than the {format_size(allowed)} of token embeddings, which stay there"
        return Check(name="weights", ok=False, detail=detail + more)
    return Check(name="weights", ok=True, detail=f"{detail} (token embeddings)")


def _operators(run: dict[str, Any]) -> Check:
    """Every operator but the look-up of embeddings ran on a device."""
    operators: dict[str, dict[str, int]] = run["operators"]
    on_cpu = operators.get(CPU, {})
    total = {device: sum(counts.values()) for device, counts in operators.items()}
    if on_cpu:
        most = sorted(on_cpu.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} ×{count}" for name, count in most[:_MOST_NAMED])
        return Check(
            name="operators",
            ok=False,
            detail=f"{total[CPU]} of {sum(total.values())} ran on the CPU: {named}; the backend "
            "cannot compute them, or not in these types",
        )
    looked_up = sum(run["inputs"].values())
    shown = ", ".join(f"{count} on {device}" for device, count in total.items()) or "none"
    detail = f"{shown}; {looked_up} look-ups of embeddings on the CPU; {run['splits']} graph splits"
    return Check(name="operators", ok=bool(total), detail=detail)


def _nothing_elsewhere(run: dict[str, Any]) -> Check:
    elsewhere = sorted(set(run["operators"]) - {CPU})
    detail = f"operators ran on {', '.join(elsewhere)}" if elsewhere else f"CPU; {run['runtime']}"
    return Check(name="device", ok=not elsewhere, detail=detail)


def _logits(name: str, made: F32, reference: F32) -> Check:
    """Logits of a device agree with those of the CPU within MOST_ERROR and MOST_KL."""
    if made.shape != reference.shape or not made.size:
        return Check(name=name, ok=False, detail=f"{made.shape}, not {reference.shape}")
    if not np.isfinite(made).all():
        return Check(name=name, ok=False, detail="not finite")
    error = relative_error(made, reference)
    _, [scores] = compare(reference, [made], np.zeros(len(made), np.int64))
    kl, alike = float(scores.kl.mean()), float(scores.top1.mean())
    detail = (
        f"{len(made)} tokens beside the CPU: error {error:.2g} of at most {MOST_ERROR:g}, KL "
        f"{kl:.2g} of at most {MOST_KL:g}; next token {alike:.1%} alike"
    )
    return Check(name=name, ok=error <= MOST_ERROR and kl <= MOST_KL, detail=detail)


def relative_error(made: F32, reference: F32) -> float:
    """Root mean square of the difference, over that of the reference around each row's mean.

    Args:
        made: f32 [tokens, vocabulary].
        reference: The same.
    """
    wide = reference.astype(np.float64)
    spread = np.sqrt(((wide - wide.mean(axis=1, keepdims=True)) ** 2).mean())
    difference = made.astype(np.float64) - wide
    # A constant on all logits of a row changes no probability.
    difference -= difference.mean(axis=1, keepdims=True)
    return float(np.sqrt((difference**2).mean()) / max(spread, np.finfo(np.float32).tiny))
