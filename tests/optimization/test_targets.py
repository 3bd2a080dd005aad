"""Files for a device hold nothing that its backend does not multiply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import optimizing

from kanna import families
from kanna.cli.main import cli
from kanna.conversion.base import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.errors import UsageError
from kanna.formats import gguf
from kanna.hardware import targets
from kanna.hardware.mask import outside
from kanna.optimization import measure
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.measure import unmeasured
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.search import search, size_range
from kanna.plan import load
from kanna.sources import open_source

pytest.importorskip("torch")
pytest.importorskip("transformers")

MASKED = {
    "hexagon": "snapdragon-8-elite:hexagon",
    "adreno": "snapdragon-8-gen-3:adreno",
    "vulkan": "amd-ryzen-ai:vulkan",
    "metal": "mac-m2-8gb",
    "cuda": "jetson-orin-nano",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a text to calibrate on and another to evaluate on."""
    return optimizing.fill(tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def adapter(home: Path) -> Iterator[GGUFAdapter]:
    source = open_source(home / "tiny")
    model = families.load_model(source)
    yield GGUFAdapter(
        Workspace(source=source, model=model, folder=home, context=Context(threads=1))
    )


def asked(adapter: GGUFAdapter, target: str | None, **more: object) -> OptimizeRequest:
    return OptimizeRequest(
        source=adapter.workspace.source.path,
        out=adapter.workspace.folder / "out",
        format="gguf",
        chosen_target=targets.choose(target) if target else None,
        **more,  # pyright: ignore[reportArgumentType]
    )


def made(adapter: GGUFAdapter, target: str | None, share: float, out: Path) -> Path:
    """The file of the best plan with that share of the way from the smallest to the largest."""
    constraints = adapter.constraints(asked(adapter, target))
    choices = adapter.choices(unmeasured(adapter.workspace.model), constraints)
    sizes = size_range(adapter, choices)
    budget = sizes.least + round(share * (sizes.most - sizes.least))
    search(adapter, choices, budget, out.with_suffix(".json"))
    plan = load(out.with_suffix(".json"))
    rules = [rule.model_copy(update={"method": "nearest"}) for rule in plan.rules]
    request = ConversionRequest(plan=plan.model_copy(update={"rules": rules}))
    workspace = adapter.workspace
    conversion = GGUFConversion(workspace.source, workspace.model, out, request)
    conversion.write(workspace.context.running())
    return out


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("backend", MASKED)
def test_no_tensor_of_the_file_is_outside_the_mask(
    backend: str, share: float, adapter: GGUFAdapter, tmp_path: Path
) -> None:
    file = gguf.read(made(adapter, MASKED[backend], share, tmp_path / "model.gguf"))
    tensors = [(name, t.dtype, t.shape) for name, t in file.tensors.items()]
    assert len(tensors) > 20
    assert outside(targets.choose(MASKED[backend]), tensors) == []


def test_without_the_mask_there_are_such_tensors(adapter: GGUFAdapter, tmp_path: Path) -> None:
    file = gguf.read(made(adapter, None, 0.05, tmp_path / "model.gguf"))
    tensors = [(name, t.dtype, t.shape) for name, t in file.tensors.items()]
    for backend in ("hexagon", "adreno"):
        assert outside(targets.choose(MASKED[backend]), tensors)


def test_a_rule_that_the_target_cannot_keep_is_refused(adapter: GGUFAdapter) -> None:
    request = asked(adapter, MASKED["hexagon"], rules={"ffn_down": "q3_k"})
    with pytest.raises(UsageError, match="does not multiply .*ffn_down"):
        adapter.constraints(request).check(adapter.workspace.model)


def test_optimize_fills_a_target(home: Path) -> None:
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", ("q3_k", "q4_0", "q4_k", "q6_k", "q8_0", "f16"))
        words = ["--effort", "fast", "--target", MASKED["adreno"], "--size", "1300kB"]
        result = optimizing.invoke(home, *words)
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about["target"]["outside"] == 0 and about["target"]["tokens_per_second"] > 0
    assert about["target"]["name"] == "snapdragon-8-gen-3-12gb:adreno"
    assert set(about["encodings"]) <= {"f16", "f32", "q4_0", "q6_k", "q8_0", "mxfp4"}
    assert about["rival"] in (None, "Q4_0", "Q8_0")
    command = json.loads((home / "out" / "report.json").read_text())["command"]
    assert f"--target {MASKED['adreno']}" in command


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [*words])
    return result.exit_code, result.output + result.stderr


def test_convert_refuses_what_the_target_does_not_multiply(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    common = ["convert", str(home / "tiny"), "-o", str(out), "--quiet"]
    code, text = run(*common, "--preset", "Q3_K_M", "--target", MASKED["hexagon"])
    assert code == 1 and "in q3_k" in text and "operator table Hexagon" in text
    assert not list(tmp_path.iterdir())
    code, text = run(*common, "--encoding", "tq1_0", "--target", "rtx-4060")
    assert code == 0 and out.exists()  # nobody tried: a note, no refusal
    code, text = run(*common, "--overwrite", "--preset", "Q4_0", "--target", MASKED["hexagon"])
    assert code == 0, text
    code, text = run(*common, "--overwrite", "--target", "snapdragon-8-elite:hexagn")
    assert code == 2 and "snapdragon-8-elite:hexagon" in text
    code, text = run(*common, "--overwrite", "--format", "mlx", "--target", "mac-m4")
    assert code == 2 and "nothing is known of what mac-m4-16gb:metal multiplies in mlx" in text


def test_fit_for_a_target(home: Path) -> None:
    import kanna

    source = home / "tiny"
    result = kanna.fit(source, target=MASKED["hexagon"])
    assert result.target and result.target["name"] == "snapdragon-8-elite-12gb:hexagon"
    assert (result.memory, result.context) == (3_500_000_000, 2048)
    by_name = {row.preset: row for row in result.rows}
    assert by_name["Q3_K_M"].outside and not by_name["Q3_K_M"].fits
    assert not by_name["Q4_0"].outside and by_name["Q4_0"].fits
    assert by_name["Q4_0"].speed_error == 0.35 and by_name["Q4_0"].prompt_tokens_per_second
    assert result.recommended is not None and by_name[result.recommended].fits
    small = kanna.fit(source, target="raspberry-pi-5-4gb:vulkan", context=16, memory="2GB")
    assert (small.memory, small.context) == (2 * 10**9, 16)
    assert all(row.tokens_per_second == 0 for row in small.rows)
    code, text = run("fit", str(source), "--target", MASKED["adreno"])
    assert code == 0 and "⊘" in text and "Snapdragon 8 Gen 3" in text
