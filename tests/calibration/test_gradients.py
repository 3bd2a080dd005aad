"""Gradients: how much the loss feels an error in each row, by hand and by kanna."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.calibrating import TOKENS, WINDOW, windows_of

import kanna
from kanna import families
from kanna.calibration import backward_pass, gradients
from kanna.errors import KannaError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")


def test_gradients_are_those_of_the_rows(
    llama: Path, text: Path, calibrated: Any, tmp_path: Path
) -> None:
    """Mean square gradients by hand on the complete model, in the row order of GGUF."""
    windows = windows_of(llama, text, 2 * WINDOW)
    model = families.load_model(kanna.open_source(llama))
    from kanna._util.progress import Silent

    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)
    whole = tiny_models.make("llama", tmp_path / "model").requires_grad_(False)
    taken: dict[str, Any] = {}

    def listen(name: str) -> Callable[..., None]:
        def add(gradient: Any) -> None:
            taken[name] = taken.get(name, 0) + gradient.reshape(
                -1, gradient.shape[-1]
            ).double().square().sum(0)

        def hook(_module: Any, _given: Any, out: Any) -> None:
            out.requires_grad_(True)
            out.register_hook(add)

        return hook

    for name in (
        "model.embed_tokens",
        "model.layers.1.self_attn.q_proj",
        "model.layers.2.mlp.down_proj",
        "lm_head",
    ):
        whole.get_submodule(name).register_forward_hook(listen(name))
    for number, row in enumerate(windows.ids):
        torch.manual_seed(backward_pass.SEED + number)
        logits = whole(
            input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False
        ).logits[0]
        chances = torch.log_softmax(logits, -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    expected = {name: (total / windows.ids.size).numpy() for name, total in taken.items()}
    # Rows of queries are in another order in a GGUF: find it by the weights themselves.
    ours, theirs = (
        model.tensors["blk.1.attn_q.weight"],
        whole.model.layers[1].self_attn.q_proj.weight.numpy(),
    )
    place = {row.tobytes(): i for i, row in enumerate(theirs)}
    order = [place[row.tobytes()] for row in ours.rows(0, len(theirs))]
    assert order != sorted(order)
    pairs = {
        "blk.1.attn_q.weight": expected["model.layers.1.self_attn.q_proj"][order],
        "blk.2.ffn_down.weight": expected["model.layers.2.mlp.down_proj"],
        "output.weight": expected["lm_head"],
        "embedding": expected["model.embed_tokens"],
    }
    for name, values in pairs.items():
        apart = np.linalg.norm(found[name] - values) / np.linalg.norm(values)
        assert apart < 1e-5, name
    again = (tmp_path / gradients.FILE).stat().st_mtime_ns
    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    assert (tmp_path / gradients.FILE).stat().st_mtime_ns == again, "kept for the same key"


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_gradients_of_a_scaled_embedding_are_of_the_table(
    name: str, tmp_path: Path, text: Path
) -> None:
    """An error in one value of the table moves the loss as its gradient says."""
    from kanna._util.progress import Silent

    whole = tiny_models.make(name, tmp_path / "model")
    windows = windows_of(tmp_path / "model", text, TOKENS)
    model = families.load_model(kanna.open_source(tmp_path / "model"))
    gradients.gradients(model, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)["embedding"]
    # The same quantity, from transformers' own model: what an error in the table does passes the
    # scale first.
    embedding = whole.requires_grad_(False).model.embed_tokens
    seen: list[torch.Tensor] = []

    def listen(_module: torch.nn.Module, _given: object, out: torch.Tensor) -> torch.Tensor:
        out.requires_grad_(True)
        out.register_hook(seen.append)
        return out

    embedding.register_forward_hook(listen)
    for number, row in enumerate(windows.ids):
        torch.manual_seed(backward_pass.SEED + number)
        ids = torch.from_numpy(row.astype(np.int64))[None]
        chances = torch.log_softmax(whole(input_ids=ids, use_cache=False).logits[0], -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
    level = torch.cat([g[0] for g in seen]).square().mean().item() * scale**2
    # Labels are drawn anew, so the level is about the same; the scale, forgotten, would be a factor
    # of hundreds.
    assert 0.5 < found.mean() / level < 2


@pytest.mark.parametrize("name", ["llama", "gemma4"])
def test_an_interrupted_pass_goes_on(name: str, text: Path, tmp_path: Path) -> None:
    """Stopped at every step in turn: the same bytes as of a pass in one go."""
    from kanna._util.progress import Silent

    class Stops(Silent):
        """Ends the pass after each step, once."""

        def __init__(self) -> None:
            self.seen, self.left = set[str](), 3

        def advance(self, amount: float, note: str = "") -> None:
            if note and note not in self.seen and self.left:
                self.seen.add(note)
                self.left -= 1
                raise KeyboardInterrupt

    tiny_models.make(name, tmp_path / "model")
    model = families.load_model(kanna.open_source(tmp_path / "model"))
    windows = windows_of(tmp_path / "model", text, TOKENS)
    for folder in ("once", "often"):
        (tmp_path / folder).mkdir()

    def run(folder: str, progress: Silent) -> bytes:
        path = tmp_path / folder
        gradients.gradients(model, windows, path, "key", device="cpu", progress=progress)
        assert [p.name for p in path.iterdir()] == [gradients.FILE], "nothing is left behind"
        return (path / gradients.FILE).read_bytes()

    whole, stops = run("once", Silent()), Stops()
    for left in (3, 3):
        stops.left = left
        for _ in range(left):
            with pytest.raises(KeyboardInterrupt):
                run("often", stops)
        stops.seen.clear()
    stops.left = 0
    assert run("often", stops) == whole


def test_gradients_that_are_not_numbers(llama: Path, tmp_path: Path, text: Path) -> None:
    """Logits overflow where nothing before them does.

    What an earlier run left is not taken for theirs.
    """
    from kanna._util.progress import Silent

    whole = tiny_models.make("llama", tmp_path / "model")
    with torch.no_grad():
        whole.lm_head.weight.mul_(1e38)
    whole.save_pretrained(tmp_path / "model")
    kanna.calibrate(tmp_path / "model", tmp_path / "stats", calibration=[text], tokens=TOKENS)
    model = families.load_model(kanna.open_source(tmp_path / "model"))
    windows = windows_of(tmp_path / "model", text, TOKENS)
    (tmp_path / "stats" / gradients.FILE).write_bytes(b"")
    with pytest.raises(KannaError, match="the activations of the head are not numbers"):
        gradients.gradients(
            model, windows, tmp_path / "stats", "key", device="cpu", progress=Silent()
        )
    assert gradients.read(tmp_path / "stats") == {}
