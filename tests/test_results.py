"""What verbs return and take in Python: truth, short forms, tables in notebooks, sizes, lists."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import kanna
from kanna._util import bars
from kanna._util.arguments import names, several
from kanna._util.progress import Silent
from kanna._util.results import Result
from kanna._util.units import Size
from kanna.benchmark import BenchResult
from kanna.checks import Check, VerifyResult
from kanna.comparison.rows import CompareResult, Row
from kanna.conversion import ConvertResult
from kanna.errors import UsageError

WITHOUT_RESULT = {"load_model", "open_source", "serve", "studio"}
"""Verbs that go on until they are stopped, or return what other verbs take."""
VERBS = [
    name
    for name in kanna.__all__
    if callable(getattr(kanna, name)) and name != "KannaError" and name not in WITHOUT_RESULT
]


def result_type(verb: str) -> Any:
    return get_type_hints(getattr(kanna, verb))["return"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_returns_a_result(verb: str) -> None:
    kind = result_type(verb)
    for one in get_args(kind) or (kind,):
        assert issubclass(one, Result), f"{verb} returns {kind}"
        assert one.__repr__ is Result.__repr__, "a dataclass writes its own unless repr=False"
        assert one.headline is not Result.headline and one.__bool__ is Result.__bool__


def verified(*oks: bool | None) -> VerifyResult:
    checks = [Check(name=f"check {n}", ok=ok, detail="<b>") for n, ok in enumerate(oks)]
    return VerifyResult(source="a", artefact="b", checks=checks, seconds=0.0)


def converted(verify: VerifyResult | None) -> ConvertResult:
    return ConvertResult(
        paths=[Path("a.gguf")],
        file_bytes=1000,
        preset="Q8_0",
        bits_per_weight=8.5,
        nominal_bits=8.5,
        substitutions=[],
        tensors=[],
        command="",
        verify=verify,
    )


def compared(*gates: str | None) -> CompareResult:
    rows = [
        Row(
            name=f"Q{n}",
            role="candidate",
            gate=gate,
            file_bytes=10**8 + n,
            kl_mean=0.01 * (n + 1),
            gen_tps=10.0 + n,
            peak_bytes=10**8,
        )
        for n, gate in enumerate(gates)
    ]
    return CompareResult(
        name="tiny",
        source={},
        rows=rows,
        recommended={"name": "Q0", "why": "It is close."},
        evaluation={},
        environment={},
        command="",
        notes=[],
        report="report.html",
    )


@pytest.mark.parametrize(
    ("result", "ok"),
    [
        (verified(True, True), True),
        (verified(True, False), False),
        (verified(True, None), False),
        (converted(None), True),
        (converted(verified(True)), True),
        (converted(verified(False)), False),
        (compared("proved", None), True),
        (compared("proved", "failed"), False),
        (BenchResult(), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_truth_follows_ok(result: Result, ok: bool) -> None:
    assert result.ok is ok and bool(result) is ok


def test_a_failed_proof_is_still_in_the_dictionary() -> None:
    assert converted(verified(False)).to_dict()["verify"]["status"] == "failed"


class Tags(HTMLParser):
    """Which tags are open at the end, and which there were."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_of(result: Result) -> set[str]:
    text = result._repr_html_()  # pyright: ignore[reportPrivateUsage]
    tags = Tags()
    tags.feed(text)
    assert not tags.open, text
    return tags.seen


FORMS: list[Callable[[Path], Result]] = [
    lambda _: kanna.doctor(),
    lambda _: kanna.components("formats"),
    lambda gguf: kanna.inspect(gguf),
    lambda gguf: kanna.fit(gguf, memory="1GB"),
    lambda gguf: kanna.convert(gguf, dry_run=True, preset="Q4_K_M"),
    lambda _: kanna.cache(),
    lambda _: kanna.list(),
    lambda _: kanna.keys(),
    lambda _: verified(True, False, None),
    lambda _: compared("proved", "failed"),
]


@pytest.mark.parametrize("call", FORMS)
def test_forms_for_people(
    call: Callable[[Path], Result], tiny_gguf: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("KANNA_STATE", str(tmp_path))
    result = call(tiny_gguf)
    line = repr(result)
    assert line.startswith(f"<{type(result).__name__}: ") and len(line) < 400 and "\n" not in line
    assert "table" in html_of(result)
    assert result.to_dict()


def test_a_comparison_has_its_chart() -> None:
    assert "svg" in html_of(compared("proved", "proved"))


def test_texts_in_tables_are_escaped() -> None:
    assert "<b>" not in verified(False)._repr_html_()  # pyright: ignore[reportPrivateUsage]


SIZES: dict[str, tuple[str, ...]] = {
    "convert": ("split_max_size",),
    "fit": ("memory",),
    "merge": ("split_max_size",),
    "optimize": ("size_max", "size", "memory"),
    "pull": ("memory",),
    "selftest": ("most_memory",),
    "serve": ("memory", "engine_memory"),
    "studio": ("memory", "upload_limit"),
}


def test_every_size_may_be_a_text() -> None:
    from kanna._util import plugins
    from kanna.cli import options
    from kanna.cli.main import COMMANDS

    sizes = {
        name: tuple(
            p.name for p in plugins.load(COMMANDS, name, "COMMAND").params if p.type is options.SIZE
        )
        for name in plugins.names(COMMANDS, "COMMAND")
    }
    assert {name: found for name, found in sizes.items() if found} == SIZES
    for verb, parameters in SIZES.items():
        hints = get_type_hints(getattr(kanna, verb))
        assert all(hints[name] in (Size, Size | None) for name in parameters)


@pytest.mark.parametrize("memory", ["4GB", "4 GB", 4_000_000_000, "4000000000"])
def test_sizes_mean_the_same(memory: Size, tiny_gguf: Path) -> None:
    assert kanna.fit(tiny_gguf, memory=memory).memory == 4_000_000_000


NO_SIZES: list[Callable[[Path, Path], object]] = [
    lambda gguf, out: kanna.fit(gguf, memory="much"),
    lambda gguf, out: kanna.convert(gguf, out, split_max_size="much"),
    lambda gguf, out: kanna.optimize(gguf, out, size="much"),
    lambda gguf, out: kanna.pull("oci://localhost:1/a:b", memory="much"),
    lambda gguf, out: kanna.selftest(gguf, most_memory="much"),
    lambda gguf, out: kanna.serve(gguf, memory="much"),
    lambda gguf, out: kanna.serve(gguf, engine_memory="much"),
]


@pytest.mark.parametrize("call", NO_SIZES)
def test_what_is_no_size_is_refused(
    call: Callable[[Path, Path], object], tiny_gguf: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="'much' is not a size"):
        call(tiny_gguf, tmp_path / "out")


def test_one_value_is_a_list_of_one() -> None:
    assert several("a.gguf") == ["a.gguf"] and several(Path("a")) == [Path("a")]
    assert several(None) == [] and several(("a", "b")) == ["a", "b"]
    assert names("Q4_K_M, Q8_0") == ["Q4_K_M", "Q8_0"] == names(["Q4_K_M", "Q8_0"])


def test_one_preset_is_no_list_of_letters(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(kanna.KannaError, match="Q9_9"):
        kanna.compare(tiny_gguf, presets="Q9_9", out=tmp_path / "out")
    with pytest.raises(kanna.KannaError, match="nowhere"):
        kanna.package(tiny_gguf, tmp_path / "out", to="nowhere")
    with pytest.raises(kanna.KannaError, match="absent.gguf does not exist"):
        kanna.bench(str(tmp_path / "absent.gguf"))
    with pytest.raises(kanna.KannaError, match="the rule 'x'"):
        kanna.optimize(tiny_gguf, tmp_path / "out", bpw=4, rules="x")


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    made = kanna.keys("create", name="laptop", scopes="metrics", state=tmp_path)
    assert made.text.startswith("kanna-") and made.text not in repr(made)
    assert made.text not in made._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert [key.name for key in kanna.keys(state=tmp_path).keys] == ["laptop"]
    assert kanna.keys("revoke", "laptop", state=tmp_path).keys[0].revoked is None
    with pytest.raises(UsageError, match="create, list, revoke"):
        kanna.keys("destroy", state=tmp_path)


def test_a_gateway_that_is_not_there_is_told() -> None:
    for call in (
        lambda: kanna.ps(url="http://127.0.0.1:9"),
        lambda: kanna.swap("model", "a.gguf", url="http://127.0.0.1:9"),
    ):
        with pytest.raises(kanna.KannaError, match="no gateway answers"):
            call()


def test_progress_suits_where_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KANNA_PROGRESS", raising=False)
    given = Silent()
    assert bars.shown(given) is given
    assert isinstance(bars.shown(None), Silent), "no terminal here"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(bars.shown(None), bars.Bars)
    monkeypatch.setenv("KANNA_PROGRESS", "0")
    assert isinstance(bars.shown(None), Silent)


def test_the_library_prints_nothing_and_logs(tiny_gguf: Path, capfd: Any, tmp_path: Path) -> None:
    kanna.convert(tiny_gguf, tmp_path / "a.gguf", preset="Q8_0")
    kanna.inspect(tmp_path / "a.gguf")
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("kanna").handlers)


SCRIPT = """
import kanna

result = kanna.convert("builtin:smollm2-135m", "model.gguf", preset="Q4_K_M", verify=True)
if not result.ok:
    raise SystemExit(result.to_dict()["notes"])
table = kanna.fit("org/name", memory="4GB", context=8192)
best: str | None = table.recommended
for row in kanna.bench(["a.gguf", result.paths[0]]):
    speed: float = row.gen_tps
for text in kanna.generate(result.paths[0], "Once", max_tokens=5):
    print(text.upper())
answer = kanna.chat(result.paths[0], "Hello")
tokens: int = answer.usage.tokens if answer.ok else len(answer.text)
proof = kanna.verify("org/name", result.paths[0])
share: float = kanna.evaluate("a.gguf", reference="org/name").top1
kanna.optimize("org/name", "out", size=95_000_000, rules="ffn_down=q6_k")
references: list[str] = [model.reference for model in kanna.list().models]
"""


MYPY = """
[mypy]
follow_imports = skip
[mypy-kanna.*]
follow_imports = silent
[mypy-numpy.*,torch.*]
follow_imports = skip
follow_imports_for_stubs = True
"""
"""Types of kanna alone: reading those of torch and NumPy takes a minute, and none is used here."""


def test_mypy_reads_the_types_of_a_script(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert (Path(str(kanna.__file__)).parent / "py.typed").is_file()
    (tmp_path / "good.py").write_text(SCRIPT)
    (tmp_path / "bad.py").write_text('import kanna\n\nkanna.fit(1.5, memory=["x"])\n')

    (tmp_path / "mypy.ini").write_text(MYPY)
    command = [sys.executable, "-m", "mypy", "good.py", "bad.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "good.py" not in run.stdout, run.stdout
    assert run.stdout.count("bad.py:3: error") == 2, run.stdout


def test_results_survive_replacing() -> None:
    again = dataclasses.replace(converted(None), notes=["x"])
    assert again.notes == ["x"] and importlib.import_module("copy").copy(again) == again
