"""Commands ended by SIGKILL, SIGTERM or Ctrl-C anywhere, and run again: they make the same files.

Points are file events (half of them at random, the other half around renames) or times. After each,
nothing that looks complete may be incomplete and no process may live on; after the next run the
same bytes are there, and no partial file, lock or scratch folder.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import hard_questions, optimizing, registries, tiny_models, wheels
from helpers.killing import Ended, Launcher, digests
from helpers.packing import ALL, mlx_folder

from kanna import inspect

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

EXITS: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}
"""The exit code of a command that a signal has give up what it does."""
LIMITS = ["--bpw", "6", "--effort", "fast"]
STAGES: dict[str, Callable[[Path], list[str]]] = {
    "max": lambda _: ["--bpw", "4", "--effort", "max", "--tokens", "1024"],
    "max-mlx": lambda _: ["--format", "mlx", "--bpw", "6", "--effort", "max", "--tokens", "1024"],
    "recover": lambda base: [
        *[*LIMITS, "--recover", "--tokens", "8192"],
        *["--calibration", str(base / "long.txt")],
    ],
    "guard": lambda base: [
        *["--like", "Q2_K", "--effort", "fast", "--tokens", "1024"],
        *["--guard", f"choice:{base / 'questions.jsonl'}:0.2"],
    ],
}
"""Options of `optimize` that have stages of their own."""
CASES = [
    *(f"convert-{format}" for format in ("gguf", "mlx", "onnx", "safetensors")),
    *(f"package-{target}" for target in [*ALL, "mlx"]),
    *(f"calibrate{part}" for part in ("", "-part", "-parts")),
    "statistics",
    *(f"{verb}-{form}" for verb in ("compare", "optimize") for form in ("gguf", "mlx", "onnx")),
    *(f"optimize-{more}" for more in STAGES),
    *(f"evaluate-{what}" for what in ("tasks", "cache")),
    "push",
]
LAST = {"convert": "out", "package": "out", "statistics": "out/index.json"}
"""What is written last by verbs that refuse to overwrite."""
IMPROVED = "out/tiny-optimized.gguf"
"""What stages of `--effort max` replace by a better one."""
TAG = "registry: v1"
"""Beside the files of a push: what the tag names, which is set last."""


@dataclass(kw_only=True)
class Undisturbed:
    """What a command does when nobody ends it.

    Attributes:
        words: Its command line.
        ended: How it ended, with its events.
        files: What it left, with hashes.
        varying: Files whose bytes differ from run to run: times, speeds.
    """

    words: list[str]
    ended: Ended
    files: dict[str, str]
    varying: set[str] = field(default_factory=set[str])

    def is_complete(self, home: Path) -> bool:
        """Whether what is in a folder is not made again."""
        last = LAST.get(self.words[0])
        return last is not None and (home / last).exists()

    def stable(self, files: dict[str, str]) -> dict[str, str]:
        """The files with hashes of those alone that are the same in every run."""
        return {name: "" if name in self.varying else sha for name, sha in files.items()}


def command(name: str, base: Path) -> list[str]:
    """The command line of a case; its output is `out`, where it runs."""
    tiny, text = str(base / "tiny"), str(base / "text.txt")
    verb, _, what = name.partition("-")
    measured = ["--text", text, "--windows", "2", "--threads", "1"]
    if verb == "convert":
        if what == "small":
            return ["convert", str(base / "plain.gguf"), "-o", "out", "--preset", "Q4_K_M"]
        words = ["convert", tiny, "-o", "out", "--format", what]
        preset = {"gguf": "Q4_K_M", "mlx": "q4", "onnx": "int4"}.get(what)
        return [*words, "--preset", preset] if preset else words
    if verb in ("calibrate", "statistics"):
        return statistics_command(name, base)
    if verb == "evaluate":
        asked = ["--kv-types", "q8_0,q8_0:q4_0", "--context", "1024", "--text", text]
        if what == "tasks":
            asked = ["--reference", tiny, "--tasks", f"json,choice:{base / 'questions.jsonl'}"]
            asked += [*measured, "--examples", "3"]
        return ["evaluate", str(base / "judged.gguf"), *asked, "--threads", "1"]
    if verb == "push":
        host = (base / "registry-host").read_text()
        return ["push", f"oci://{host}/killed/tiny:v1", str(base / "small.gguf"), "--unproved"]
    if verb == "optimize":
        words = ["optimize", tiny, "-o", "out", *measured, "--calibration", text]
        if what in STAGES:
            return [*words, *STAGES[what](base)]
        return [*words, "--format", what, *LIMITS, "--tokens", "1024"]
    if verb == "compare":
        presets = {"gguf": "Q4_0", "mlx": "mlx:q8", "onnx": "onnx:fp32"}[what]
        words = ["compare", tiny, "-o", "out", "--formats", what, "--presets", presets]
        return [*words, *measured, "--repeat", "1"]
    artefact = "mlx" if what == "mlx" else "small.gguf"
    target = "docker" if what == "mlx" else what
    wheel = str(next(base.glob("*.whl")))
    return ["package", str(base / artefact), "-o", "out", "--to", target, "--wheel", wheel]


def statistics_command(name: str, base: Path) -> list[str]:
    """The command line of a calibration, in whole or in part, or of what adds parts up."""
    tiny, text = str(base / "tiny"), str(base / "text.txt")
    if name == "statistics":
        parts = [str(base / f"part-{number}") for number in (1, 2)]
        return ["statistics", "merge", *parts, "--source", tiny, "-o", "out"]
    words = ["calibrate", tiny, "-o", "out", "--calibration", text, "--tokens", "2048"]
    how = {"part": ["--shard", "2/2", "--gradients"], "parts": ["--shards", "2", "--gradients"]}
    return [*words, *how.get(name.partition("-")[2], [])]


class Runs:
    """Commands, undisturbed and ended early, each in a fresh folder."""

    def __init__(self, launcher: Launcher, base: Path) -> None:
        self.launcher, self.base, self.count = launcher, base, 0
        self.storage = base / "registry" / "docker" / "registry" / "v2"
        self._undisturbed: dict[str, Undisturbed] = {}

    def place(self) -> Path:
        """A fresh folder, beside a registry that has nothing."""
        shutil.rmtree(self.storage, ignore_errors=True)
        self.count += 1
        home = self.base / f"run-{self.count}"
        home.mkdir()
        return home

    def made(self, home: Path) -> dict[str, str]:
        """Every file in a folder with its hash, and what the registry's tags name."""
        tags = self.storage.glob("repositories/killed/tiny/_manifests/tags/*/current/link")
        return digests(home) | {f"registry: {p.parents[1].name}": p.read_text() for p in tags}

    def undisturbed(self, name: str, *, twice: bool) -> Undisturbed:
        """A case run to its end, once for all of its points."""
        if name not in self._undisturbed:
            words = command(name, self.base)
            home = self.place()
            ended = self.launcher.run(words, home)
            assert ended.code == 0, (name, ended.errors)
            assert not ended.survivors, (name, ended.survivors)
            made = Undisturbed(words=words, ended=ended, files=self.made(home))
            if twice:
                other = self.place()
                again = self.launcher.run(words, other)
                made.ended.seconds, files = again.seconds, self.made(other)
                assert files.keys() == made.files.keys()
                made.varying = {n for n, sha in made.files.items() if files[n] != sha}
                assert words[0] not in ("convert", "push") or not made.varying, made.varying
            self._undisturbed[name] = made
        return self._undisturbed[name]

    def end_and_repeat(self, name: str, choice: random.Random, *, twice: bool = False) -> list[str]:
        """What is wrong after a command was ended at a random point, and after it ran again."""
        whole = self.undisturbed(name, twice=twice)
        number = choice.choice([signal.SIGKILL, *EXITS])
        event, seconds = -1, None
        if choice.random() < 0.2:
            seconds = choice.uniform(0, whole.ended.seconds)
        else:
            event = choice.randrange(len(whole.ended.events))
            renames = [n for n, e in enumerate(whole.ended.events) if e.startswith("os.rename")]
            if renames and choice.random() < 0.5:
                event = max(0, choice.choice(renames) + choice.choice([0, 1, 2]))
        home = self.place()
        run = self.launcher.run(whole.words, home, number=number, event=event, seconds=seconds)
        at = f"{name}, {signal.Signals(number).name} at " + (
            f"{seconds:.2f} s" if seconds is not None else f"event {event}"
        )
        wrong = [*self._after(run, number, home, whole), *self._again(home, whole)]
        return [f"{at} {run.events[-1:]}: {w}" for w in wrong]

    def _after(self, run: Ended, number: int, home: Path, whole: Undisturbed) -> list[str]:
        """What is wrong once a command was ended."""
        wrong = [f"still runs: {line}" for line in run.survivors]
        # A command may be through already, or on its way out, where the system ends it.
        expected = {0, EXITS.get(number, 0), -number}
        if run.code not in expected:
            wrong.append(f"exit {run.code}: {run.errors[-400:]}")
        files = self.made(home)
        if number in EXITS and run.code:
            wrong += [f"left {n}" for n in files if ".partial" in n or n.endswith(".kanna-lock")]
        if whole.is_complete(home):
            made, full = (
                {n: sha for n, sha in f.items() if n.partition("/")[0] == "out"}
                for f in (files, whole.files)
            )
            if whole.stable(made) != whole.stable(full):
                wrong.append("looks complete, and is not")
        final = {n: whole.files[n] for n in files.keys() & whole.files.keys() - whole.varying}
        if "max" in whole.words and final.pop(IMPROVED, None):
            inspect(home / IMPROVED)
        wrong += [
            f"{name} looks complete, and is not"
            for name, sha in final.items()
            if (name.endswith((".gguf", ".safetensors")) or name == TAG) and files[name] != sha
        ]
        return wrong

    def _again(self, home: Path, whole: Undisturbed) -> list[str]:
        """What is wrong once the same command ran again."""
        # Nothing is overwritten: that of a run that was ended behind its last rename stays.
        refused = whole.is_complete(home)
        again = self.launcher.run(whole.words, home)
        wrong = [f"still runs: {line}" for line in again.survivors]
        if again.code and not refused:
            wrong.append(f"again: exit {again.code}: {again.errors[-400:]}")
        if refused:
            shutil.rmtree(
                home / ".local", ignore_errors=True
            )  # remembers the refusal, for `kanna bug-report`
        files, full = whole.stable(self.made(home)), whole.stable(whole.files)
        wrong += [f"stays: {n}" for n in files if n not in full]
        wrong += [f"is missing: {n}" for n in full if n not in files]
        wrong += [f"has other bytes: {n}" for n in files if full.get(n, files[n]) != files[n]]
        return wrong


def prepared(base: Path, packable: Path) -> None:
    """Fill a folder with the sources of packages."""
    mlx_folder(base / "mlx")
    shutil.copy(packable, base / "small.gguf")
    wheels.make(base)


def calibrated_and_judged(base: Path, launcher: Launcher) -> None:
    """Put the shards of a calibration, a file to evaluate, and questions into a folder."""
    (base / "long.txt").write_text(tiny_models.TEXT * 120, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KANNA_CACHE", str(base / "cache"))
        hard_questions.write(base / "questions.jsonl", base / "tiny")
    part = command("calibrate-part", base)
    for number in (1, 2):
        words = [f"part-{number}" if word == "out" else word for word in part]
        words = [f"{number}/2" if word == "2/2" else word for word in words]
        assert launcher.run(words, base).code == 0
    words = ["convert", str(base / "tiny"), "-o", "judged.gguf", "--preset", "Q4_K_M"]
    assert launcher.run(words, base).code == 0


def test_a_few_points(tmp_path: Path, packable: Path, tiny_gguf: Path) -> None:
    prepared(tmp_path, packable)
    shutil.copy(tiny_gguf, tmp_path / "plain.gguf")
    choice, wrong = random.Random(1), list[str]()
    launcher = Launcher(everything=False)
    try:
        runs = Runs(launcher, tmp_path)
        for name in ("convert-small", "package-docker"):
            for _ in range(2):
                wrong += runs.end_and_repeat(name, choice)
    finally:
        launcher.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, packable: Path) -> Iterator[Runs]:
    """A tiny model, texts, packages' sources, and the process that runs commands."""
    base = tmp_path_factory.mktemp("killed")
    with optimizing.folder_home(base):
        pass
    prepared(base, packable)
    launcher = Launcher()
    calibrated_and_judged(base, launcher)
    try:
        yield Runs(launcher, base)
    finally:
        launcher.close()


@contextmanager
def registry(base: Path) -> Generator[None]:
    """A registry on loopback, which `push` finds."""
    with registries.docker_registry(base) as host:
        (base / "registry-host").write_text(host)
        yield


@pytest.mark.kill
@pytest.mark.parametrize("name", CASES)
def test_many_points(name: str, runs: Runs, request: pytest.FixtureRequest) -> None:
    points = -(-int(request.config.getoption("--kill-points")) // len(CASES))
    seed = request.config.getoption("--kill-seed")
    choice, wrong = random.Random(f"{seed} {name}" if seed else name), list[str]()
    with registry(runs.base) if name == "push" else nullcontext():
        for number in range(points):
            problems = runs.end_and_repeat(name, choice, twice=True)
            print(f"{name}: {number + 1} of {points}: {problems or 'right'}", flush=True)
            wrong += problems
    assert not wrong, "\n".join(wrong)
