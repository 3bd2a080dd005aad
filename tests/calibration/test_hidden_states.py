"""Layers that differ, one at a time and all at once: hidden states, logits and gradients.

Held against transformers' own model of the same weights, which none of this code is part of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.calibrating import TOKENS, windows_of

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import backward_pass, gradients
from kanna.calibration.network import Network
from kanna.families.views import Computed
from kanna.model import Model, Tensor
from kanna.plan import Plan

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

from kanna.optimization.tuning.learnable import unit_of  # noqa: E402 - needs torch
from kanna.optimization.tuning.learned_values import Pace  # noqa: E402 - needs torch
from kanna.optimization.tuning.student import Student  # noqa: E402 - needs torch
from kanna.optimization.tuning.teacher import Teacher  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
NAMES = (
    "lfm2",
    "gemma4",
    "gemma4-wide",
    "gemma4-moe",
    "gemma3n",
    "llama4",
    "qwen35",
    "qwen35-moe",
    "qwen2-moe",
    "olmoe",
    "qwen3-moe",
    "mixtral",
    "lfm2-moe",
    "granite-moe",
    "granite-moe-shared",
    "gpt-oss",
    "phi2",
    "granite-hybrid-moe",
    "falcon-h1",
    "falcon-h1-of-ones",
    "nemotron-h-moe",
)
BOUND = 1e-4
SPARSE = {"gemma3n": 1e-3}
"""Gradients of activations that have a kink: the last bit of an input may choose another side."""
MULTIPLIED = tiny_models.RECIPES["falcon-h1"]
OF_ONES = {
    key: [1.0] * len(value) if isinstance(value, list) else 1.0
    for key, value in MULTIPLIED.values.items()
    if key.endswith(("multiplier", "multipliers"))
}
"""Our weights of Falcon-H1 hold its multipliers, so rows are compared where those are 1."""


@pytest.fixture(scope="module", params=NAMES)
def both(request: Any, tmp_path_factory: pytest.TempPathFactory, text: Path) -> Any:
    """A model here, transformers' own, and windows of text."""
    folder = tmp_path_factory.mktemp("model") / "model"
    with pytest.MonkeyPatch.context() as patch:
        of_ones = replace(MULTIPLIED, values=MULTIPLIED.values | OF_ONES)
        patch.setitem(tiny_models.RECIPES, "falcon-h1-of-ones", of_ones)
        whole = tiny_models.make(request.param, folder).requires_grad_(False)
    model = families.load_model(kanna.open_source(folder))
    tokens = TOKENS // 2 if request.param == "gemma3n" else TOKENS  # it has 22 layers
    return model, whole, windows_of(folder, text, tokens)


def apart(ours: Any, theirs: Any) -> float:
    """Relative distance."""
    return float((ours - theirs).norm() / theirs.norm())


def test_one_layer_at_a_time_gives_the_hidden_states(both: Any, tmp_path: Path) -> None:
    model, whole, windows = both
    teacher = Teacher(model, windows.ids[:2], "cpu", tmp_path)
    for ids, state in zip(windows.ids[:2], teacher.states, strict=True):
        given = torch.from_numpy(ids.astype(np.int64))[None]
        expected = whole.model(input_ids=given, use_cache=False).last_hidden_state[0]
        assert apart(state, expected) < BOUND


def test_all_layers_at_once_give_the_logits(both: Any, tmp_path: Path) -> None:
    model, whole, windows = both
    given = torch.from_numpy(windows.ids[0].astype(np.int64))[None]
    expected = whole(input_ids=given, use_cache=False)
    ours = Network(model, "cpu").whole()(input_ids=given, use_cache=False)
    assert apart(ours.logits, expected.logits) < BOUND
    # From a teacher without any states: what the head adds, divides by and caps is all there is.
    hidden = whole.model(input_ids=given, use_cache=False).last_hidden_state[0]
    nothing, bias = torch.zeros_like(hidden), whole.lm_head.bias
    flat = torch.zeros_like(expected.logits[0]) + (0.0 if bias is None else bias)
    target = torch.log_softmax(flat / getattr(whole.config, "logits_scaling", 1.0), -1)
    predicted = torch.log_softmax(expected.logits[0], -1)
    wanted = float((target.exp() * (target - predicted)).sum(-1).mean())
    head = Computed("head", np.zeros(tuple(whole.lm_head.weight.shape), np.float32))
    student = Student(model, "cpu", tmp_path)
    assert student.divergence(hidden, nothing, head) == pytest.approx(wanted, rel=1e-3)


def test_what_learns_has_the_gradients_of_the_whole(both: Any, tmp_path: Path) -> None:
    """Of one layer in memory at a time, those of all layers and of one loss."""
    model, original, windows = both
    folder = next(iter(model.side_files.values())).parent
    kanna.convert(folder, tmp_path / "q.gguf", plan=Plan(encoding="q8_0"), threads=1)
    artefact, ids = families.load_model(kanna.open_source(tmp_path / "q.gguf")), windows.ids[0]
    student = Student(artefact, "cpu", tmp_path / "work")
    torch.manual_seed(0)
    with torch.no_grad():
        for name in student.values.of:
            student.values.leaf(name, "cpu").normal_(std=0.02)
    want, loss = _whole_gradients(artefact, original, student, ids)
    got: dict[str, Any] = {}
    student.values.step = lambda name, gradient, pace: got.update({name: gradient})  # type: ignore
    teacher = Teacher(model, ids[None], "cpu", tmp_path / "teacher")
    assert student.learn(ids, teacher.states[0], teacher.head, Pace(0, 1)) == pytest.approx(
        loss, rel=1e-3
    )
    assert got.keys() == want.keys() and len(got) > 10
    away = {name: apart(got[name], gradient) for name, gradient in want.items()}
    assert max(away.values()) < SPARSE.get(artefact.family, 2e-5), away


def _whole_gradients(
    artefact: Model, original: Any, student: Student, ids: Any
) -> tuple[dict[str, Any], float]:
    """Gradients of θ through the network as a whole, by tensor, and the loss."""
    whole = Network(artefact, "cpu").whole().requires_grad_(False)
    leaves: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    for name, one in student.values.of.items():
        leaf = leaves[name] = student.values.leaf(name, "cpu").detach().clone().requires_grad_()
        base = whole.get_parameter(f"{one.path}.weight")
        moved = (
            base + unit_of(artefact, name) * leaf
            if one.norm
            else (base.view(*leaf.shape, -1) * (1 + leaf)[..., None]).view(base.shape)
        )
        weights[f"{one.path}.weight"] = moved
    given = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], "use_cache": False}
    predicted = torch.func.functional_call(whole, weights, (), given).logits[0]
    with torch.no_grad():
        target = torch.log_softmax(original(**given).logits[0], -1)
    loss = (target.exp() * (target - torch.log_softmax(predicted, -1))).sum(-1).mean()
    loss.backward()
    return {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}, float(loss)


def test_gradients_of_every_kind_of_matrix(both: Any, tmp_path: Path) -> None:
    model, whole, windows = both
    if getattr(whole.config, "key_multiplier", 1.0) != 1.0:
        pytest.skip("the rows of what is multiplied are not those of transformers")
    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)
    parts = families.hf_parts(model)
    places = {name: [part for part, _ in held] for name, held in parts.items()}
    sums: dict[str, Any] = {}
    handles: list[Any] = []

    def listen(name: str, power: float = 1.0) -> Any:
        def add(gradient: Any) -> None:
            squares = gradient.reshape(-1, gradient.shape[-1]).double().square().sum(0)
            sums[name] = sums.get(name, 0) + squares * power

        def hook(_module: Any, _given: Any, out: Any) -> Any:
            if isinstance(out, tuple):  # a router gives what it chose, too
                out[-1].register_hook(add)
                return out
            out.requires_grad_(True)
            out.register_hook(add)
            return out.clone()  # transformers multiplies some in place

        return hook

    weights: dict[str, Any] = {}
    halves = {held[0]: held for held in places.values() if len(held) > 1}
    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" in places:
            weights[places[f"{name}.weight"][0]] = module.weight.numpy()
            handles.append(module.register_forward_hook(listen(places[f"{name}.weight"][0])))
    table = getattr(whole.model, "embed_tokens_per_layer", None)
    if table is not None:
        power = float(table.scalar_embed_scale) ** 2
        handles.append(table.register_forward_hook(listen(gradients.LAYER_EMBEDDING, power)))
    for number, ids in enumerate(windows.ids):
        torch.manual_seed(backward_pass.SEED + number)
        given = torch.from_numpy(ids.astype(np.int64))[None]
        chances = torch.log_softmax(whole(input_ids=given, use_cache=False).logits[0], -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    for handle in handles:
        handle.remove()
    checked, rtol = 0, max(1e-3, 10 * SPARSE.get(model.family, 0.0))
    for name, total in sums.items():
        if name in model.tensors and len(model.tensors[name].shape) != 2:
            continue  # not a matrix, or one of a stack that is not quantized
        expected = (total / windows.ids.size).numpy()
        if (both_halves := halves.get(name)) is not None:
            ours = np.concatenate([found[half] for half in both_halves])
            np.testing.assert_allclose(
                ours, expected, rtol=rtol, atol=1e-5 * expected.max(), err_msg=name
            )
            continue
        if name in weights:
            expected = expected[order_of_rows(model.tensors[name], weights[name])]
        np.testing.assert_allclose(
            found[name], expected, rtol=rtol, atol=1e-5 * expected.max(), err_msg=name
        )
        away = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
        assert away < SPARSE.get(model.family, 1e-5), name
        checked += 1
    assert checked > 10


def order_of_rows(ours: Tensor, theirs: np.ndarray) -> list[int]:
    """Which row of transformers' matrix each of ours is, whatever the order of columns."""
    place = {np.sort(row).tobytes(): i for i, row in enumerate(theirs)}
    return [place[np.sort(row).tobytes()] for row in ours.rows(0, len(theirs))]
