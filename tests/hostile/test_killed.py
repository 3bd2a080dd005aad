"""Commands ended by SIGKILL or SIGTERM anywhere: run again, they make what they would have made.

Points are file events (half of them at random, the other half around renames) or times. After each,
nothing that looks complete may be incomplete and no process may live on; after the next run the
same bytes are there, and no partial file, lock or scratch folder.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import optimizing, registries, wheels
from helpers.killing import Ended, Launcher, digests
from helpers.packing import ALL, mlx_folder

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

LIMITS = ["--bpw", "6", "--effort", "fast"]
CASES = [
    *(f"convert-{format}" for format in ("gguf", "mlx", "onnx", "safetensors")),
    *(f"package-{target}" for target in [*ALL, "mlx"]),
    "calibrate",
    *(f"{verb}-{form}" for verb in ("compare", "optimize") for form in ("gguf", "mlx", "onnx")),
    "push",
]
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
    if verb == "calibrate":
        return ["calibrate", tiny, "-o", "out", "--calibration", text, "--tokens", "1024"]
    if verb == "push":
        host = (base / "registry-host").read_text()
        return ["push", f"oci://{host}/killed/tiny:v1", str(base / "small.gguf"), "--unproved"]
    if verb == "optimize":
        words = ["optimize", tiny, "-o", "out", "--format", what, *LIMITS, *measured]
        return [*words, "--calibration", text, "--tokens", "1024"]
    if verb == "compare":
        presets = {"gguf": "Q4_0", "mlx": "mlx:q8", "onnx": "onnx:fp32"}[what]
        words = ["compare", tiny, "-o", "out", "--formats", what, "--presets", presets]
        return [*words, *measured, "--repeat", "1"]
    artefact = "mlx" if what == "mlx" else "small.gguf"
    target = "docker" if what == "mlx" else what
    wheel = str(next(base.glob("*.whl")))
    return ["package", str(base / artefact), "-o", "out", "--to", target, "--wheel", wheel]


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
        number = choice.choice([signal.SIGKILL, signal.SIGTERM])
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
        expected = {0, -number} if number == signal.SIGKILL else {0, 143, -number}
        if run.code not in expected:
            wrong.append(f"exit {run.code}: {run.errors[-400:]}")
        files = self.made(home)
        if number == signal.SIGTERM and run.code:
            wrong += [f"left {n}" for n in files if ".partial" in n or n.endswith(".kanna-lock")]
        if whole.words[0] in ("convert", "package") and (home / "out").exists():
            made, full = (
                {n: sha for n, sha in f.items() if n.partition("/")[0] == "out"}
                for f in (files, whole.files)
            )
            if whole.stable(made) != whole.stable(full):
                wrong.append("looks complete, and is not")
        final = {n: whole.files[n] for n in files.keys() & whole.files.keys() - whole.varying}
        wrong += [
            f"{name} looks complete, and is not"
            for name, sha in final.items()
            if (name.endswith((".gguf", ".safetensors")) or name == TAG) and files[name] != sha
        ]
        return wrong

    def _again(self, home: Path, whole: Undisturbed) -> list[str]:
        """What is wrong once the same command ran again."""
        complete = (home / "out").exists()
        again = self.launcher.run(whole.words, home)
        wrong = [f"still runs: {line}" for line in again.survivors]
        # Nothing is overwritten: that of a run that was ended behind its last rename stays.
        refused = whole.words[0] in ("convert", "package") and complete
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
