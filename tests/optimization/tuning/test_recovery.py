"""`kanna optimize --recover`: scales and norms tuned on text of a domain, judged by its loss."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs

import kanna
from kanna.errors import UsageError
from kanna.optimization import measure
from kanna.optimization.kl_scorer import SURE
from kanna.optimization.request import OptimizeRequest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
needs.llama_cpp()

from helpers import optimizing, tiny_models  # noqa: E402 - needs torch

from kanna.optimization.tuning import distillation, recovery  # noqa: E402 - needs torch

QUICK = ("q2_k", "q4_0", "f16")
WHO = ("The fox", "A dog", "My friend", "The small model", "Nobody here", "Every reader")
DOES = ("jumps over", "writes about", "looks at", "thinks of", "says hello to", "reads to")
WHAT = ("the lazy dog", "many languages", "a number", "what we wanted", "the time", "code")


def stories(count: int, seed: int) -> str:
    draw = random.Random(seed)
    lines = (f"{draw.choice(WHO)} {draw.choice(DOES)} {draw.choice(WHAT)}." for _ in range(count))
    return " ".join(lines)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model that learned stories, and other stories of the same kind."""
    home = tmp_path_factory.mktemp("recovery")
    with optimizing.learning(home / "cache") as patch:
        patch.setattr(measure, "CANDIDATES", QUICK)
        sizes = {"num_hidden_layers": 2, "intermediate_size": 768}  # no builder takes it for a head
        patch.setattr(tiny_models, "SMALL", tiny_models.SMALL | sizes)
        learn(tiny_models.make("smollm", home / "tiny"), home / "tiny", stories(1500, 0))
        (home / "text.txt").write_text(stories(900, 1), encoding="utf-8")
        (home / "short.txt").write_text(stories(60, 2), encoding="utf-8")
        yield home


def learn(model: Any, folder: Path, text: str) -> None:
    """Train a tiny model on a text, and write it again."""
    from transformers import AutoTokenizer

    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for at in np.random.default_rng(0).integers(0, len(ids) - 64, (40, 8)):
        rows = torch.stack([ids[i : i + 64] for i in at])
        model(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)


def optimize(home: Path, out: str, *words: str) -> Any:
    command = ["--bpw", "3", "--effort", "fast", "--recover", *words]
    return optimizing.invoke(home, *command, text="text.txt", out=out)


def test_a_file_of_few_bits_loses_less_on_its_domain(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = optimize(home, "out")
    assert done.exit_code == 0, done.stderr + done.output
    found = json.loads(done.stdout)
    told = found["tuning"]
    decided, reported = told["recovery"]["decided"], told["recovery"]["reported"]
    assert told["kept"] and told["recovery"]["retention"] is None
    assert decided["windows"] == reported["windows"] == recovery.WINDOWS
    # Text that decided nothing: a tenth of what was lost is back, at least.
    lost = reported["before"] - reported["source"]
    assert lost > 0 and reported["after"] < reported["before"] - 0.1 * lost
    assert Path(found["artefact"]).name == "tiny-tuned.gguf"
    assert found["file_bytes"] <= found["budget"]
    report = json.loads((home / "out" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]][:2] == ["optimized", "tuned"]
    assert report["recommended"]["name"] == "tuned" and "--recover" in report["command"]
    page = (home / "out" / "report.html").read_text()
    assert "held-out text that decided nothing" in page and f"{reported['after']:.4f}" in page
    monkeypatch.setattr(
        distillation, "Student", lambda *_, **__: pytest.fail("it was taught again")
    )
    again = json.loads(optimize(home, "out").stdout)
    assert again["tuning"] == told


@pytest.mark.slow
@pytest.mark.parametrize(("format", "bpw"), [("onnx", "4.1"), ("mlx", "3")])
def test_folders_are_judged_in_their_runtime(home: Path, format: str, bpw: str) -> None:
    pytest.importorskip("mlx_lm" if format == "mlx" else "onnxruntime_genai")
    words = ["--format", format, "--bpw", bpw, "--effort", "fast", "--recover"]
    done = optimizing.invoke(home, *words, text="text.txt", out=format)
    assert done.exit_code == 0, done.stderr + done.output
    found = json.loads(done.stdout)
    told, tuned = found["tuning"], home / format / f"tiny-tuned-{format}"
    decided = told["recovery"]["decided"]
    falls = decided["after"] - decided["before"] < -SURE * decided["half"]
    assert decided["windows"] == recovery.WINDOWS and found["gate"] == "proved"
    assert told["kept"] == tuned.exists() == (Path(found["artefact"]) == tuned) == falls
    assert Path(found["plan"]).name == f"{'tuned' if falls else 'plan'}-{format}.json"


def test_what_is_asked_for_must_be_possible(home: Path) -> None:
    with pytest.raises(UsageError, match="none was given"):
        OptimizeRequest(source=home, out=home / "no", format="gguf", recover=True)
    with pytest.raises(UsageError, match="openvino, whose folders cannot be tuned"):
        kanna.optimize(
            home / "tiny",
            home / "no",
            bpw=4.5,
            format="openvino",
            recover=True,
            calibration=home / "text.txt",
        )
    with pytest.raises(UsageError, match="the text of the domain has"):
        kanna.optimize(
            home / "tiny", home / "no", bpw=4, recover=True, calibration=home / "short.txt"
        )


def losses(source: float, before: float, after: float, half: float | None) -> Any:
    return recovery.DomainLosses(
        source=source, before=before, after=after, half=half, windows=4, tokens=64
    )


@pytest.mark.parametrize(
    ("after", "half", "examples", "kept"),
    [
        (1.8, 0.1, None, True),
        (1.96, 0.1, None, False),  # within a standard error
        (1.8, None, None, False),  # too few windows to say
        (1.8, 0.1, 2.9, True),
        (1.8, 0.1, 3.1, False),  # the fine-tune lost
    ],
)
def test_only_a_sure_gain_is_kept(
    after: float, half: float | None, examples: float | None, kept: bool
) -> None:
    judged = losses(1.5, 2.0, after, half)
    retention = examples and {
        "before": {"artefact_loss": 3.0},
        "after": {"artefact_loss": examples},
    }
    result = recovery.RecoveryResult(
        decided=judged,
        reported=judged,
        retention=retention or None,
        kl_before=np.zeros(4),
        kl_after=np.zeros(4),
    )
    assert result.kept == kept
