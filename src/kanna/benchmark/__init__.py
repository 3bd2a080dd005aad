"""Size, load time, memory and speed of artefacts on this machine, each in its own runtime.

Every measurement runs in a process of its own, the artefacts take turns, and medians are reported.
An artefact whose first round takes longer than PATIENCE is not measured again: the rounds average
noise, which so long a round does by itself. The file cache is warm: each file is read once
before the first round, so `load_s` is not the speed of the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from kanna import formats, offload, runtimes
from kanna._util.arguments import several
from kanna._util.bars import shown
from kanna._util.nearest import absent
from kanna._util.processes import ask
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.benchmark import draft_prompts as prompt_files
from kanna.benchmark import guesses
from kanna.benchmark.guesses import OWN_HEAD
from kanna.benchmark.load import LoadMeter
from kanna.errors import MissingError, NotFoundError, UsageError
from kanna.hardware.encoding_speed import COST_COLUMNS, EncodingSpeeds, cost_rows
from kanna.hardware.threads import choose_threads
from kanna.offload import choice
from kanna.offload import providers as placement
from kanna.sources import locate

__all__ = ["BenchResult", "BenchRow", "bench", "file_bytes"]

PATIENCE = 30.0
"""Seconds of a round beyond which an artefact is measured once."""
CONTEXT_MARGIN = 16
"""Tokens of context beyond those of the prompt and of the answer."""
_LEAST_PROMPT = 8
_HEADED = "llamacpp"
_MEASURED = ("load_s", "ttft_s", "prompt_tps", "gen_tps", "peak_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """Medians of one artefact.

    Attributes:
        file_bytes: All files of a folder or a split artefact together.
        load_s: Seconds until a prompt can be read; warm file cache.
        peak_bytes: Highest resident memory of the process, mapped weights included, less the Python
            interpreter's own.
        ttft_s: Seconds from the prompt of `prompt_tokens` tokens to its first new token.
        prompt_tps, gen_tps: Tokens per second reading a prompt and generating.
        joules_per_token: Of the whole machine while generating; None where nothing tells.
        energy: What was `counted`, and by what, and why other programs are `missing`.
        spread: Lowest and highest value of each of these over the rounds.
        samples: Their values round by round; files take turns, so those of one round were measured
            shortly after each other.
        busy: Share of this machine's processors that other programs took meanwhile; None where that
            cannot be told.
        repeat: Rounds that were measured.
        memory: Bytes by purpose as the runtime allocated them.
        draft: With something that guesses: `guesser`, tokens `drafted` and `accepted`, `acceptance`
            as a share of them, and `tokens_per_step` of the model that is measured; of its own
            head also which llama.cpp computed it, `computed_by`.
        offload: With a backend: where layers, weights and operators were, as
            `OffloadProof.to_dict` has it.
    """

    path: str
    file_bytes: int
    load_s: float
    peak_bytes: int
    ttft_s: float
    prompt_tps: float
    gen_tps: float
    spread: dict[str, tuple[float, float]]
    memory: dict[str, int]
    runtime: str
    joules_per_token: float | None
    energy: dict[str, list[str]]
    repeat: int
    threads: int
    prompt_tokens: int
    gen_tokens: int
    file_cache: str = "warm"
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    busy: float | None = None
    draft: dict[str, Any] | None = None
    offload: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return asdict(self)


class BenchResult(Result, list[BenchRow]):
    """A row per artefact, in the order they were named.

    Attributes:
        speeds: Costs of encodings at the shapes of each, where these were asked for.
    """

    def __init__(
        self, rows: Iterable[BenchRow] = (), speeds: Sequence[EncodingSpeeds] = ()
    ) -> None:
        super().__init__(rows)
        self.speeds = list(speeds)

    @property
    def ok(self) -> bool:
        """Whether something was measured."""
        return len(self) > 0 or len(self.speeds) > 0

    def headline(self) -> str:
        """The speed of every artefact."""
        if self.speeds:
            return f"{len(self.speeds[0].generation)} encodings on {self.speeds[0].machine}"
        return ", ".join(f"{Path(row.path).name} {row.gen_tps:.1f} tokens/s" for row in self)

    def tables(self) -> Sequence[ResultTable]:
        """Every figure of every artefact."""
        rows = [
            (
                Path(row.path).name,
                format_size(row.file_bytes),
                f"{row.load_s:.2f}",
                format_size(row.peak_bytes),
                f"{row.ttft_s:.3f}",
                f"{row.prompt_tps:.1f}",
                f"{row.gen_tps:.1f}",
            )
            for row in self
        ]
        measured = ("load s>", "peak memory>", "first token s>", "prompt tokens/s>", "tokens/s>")
        listed = ResultTable(columns=("artefact", "file>", *measured), rows=rows)
        costs = [
            ResultTable(columns=COST_COLUMNS, rows=cost_rows(table.to_dict()))
            for table in self.speeds
        ]
        return costs or [listed]

    def to_dict(self) -> dict[str, Any]:
        """The rows as JSON has them."""
        tables = {"speeds": [table.to_dict() for table in self.speeds]} if self.speeds else {}
        return {"rows": [row.to_dict() for row in self]} | tables


def bench(
    paths: str | Path | Sequence[str | Path],
    *,
    prompt_tokens: int = 512,
    gen_tokens: int = 64,
    repeat: int = 3,
    threads: int | None = None,
    draft: str | Path | None = None,
    draft_prompts: str | Path | None = None,
    backend: str | None = None,
    provider: str | None = None,
    encodings: bool = False,
    format: str | None = None,
    export: str | Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure files; rows come in the order of `paths`.

    Raises MissingError without a runtime, UsageError for a path that does not exist, KannaError
    when a measurement dies, GateError for a file that does not run wholly on the backend.

    Args:
        paths: GGUF files, and folders that a runtime loads, or any references to them; one of them
            may stand alone.
        prompt_tokens: Tokens of the prompt that is read; fewer for all files where one has too
            short a context.
        gen_tokens: Tokens generated after a short prompt.
        repeat: Rounds whose medians are returned; one for a file slower than PATIENCE.
        threads: Threads to use; None: one per physical core that other programs leave free.
        draft: A small model of the same vocabulary, or `mtp` for the head for further tokens that
            each GGUF has itself: how many of its guesses each file accepts.
        draft_prompts: A .jsonl file of prompts after which files write, one
            `{"prompt": "…", "tokens": 48}` a line, such as `kanna adapt --draft` leaves beside an
            adapter; None: a built-in one.
        backend: cpu, cuda, vulkan, metal, opencl, sycl or rocm: what is measured is first proved to
            run there, and rightly; None: the llama.cpp that is in use.
        provider: An execution provider of onnxruntime, such as openvino: ONNX folders are first
            proved to run there, and measured on it; None: the CPU.
        encodings: Measure instead what each encoding costs a token at the shapes of the models,
            unless that is kept from before; takes minutes.
        format: In whose runtime that is: gguf, onnx, mlx or openvino; None: gguf.
        export: A file that gets these costs, for `speeds` of `fit` and `optimize` elsewhere.
        offline: Use only what is on this machine already.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
    """
    if encodings or export is not None or format is not None:
        _check_costs(encodings, backend or provider)
        from kanna.benchmark.costs import measured

        written = partial(measured, format=format or formats.DEFAULT, export=export)
        return BenchResult(
            speeds=written(several(paths), threads=threads, offline=offline, progress=progress)
        )
    threads = threads or choose_threads().count  # the same in every round
    progress = shown(progress)
    files = [locate(p, offline=offline, progress=progress) for p in several(paths)]
    guesser = _guesser(draft, files, offline, progress)
    prompts = _prompts(draft_prompts, draft)
    _check_there([*files, *([guesser] if isinstance(guesser, Path) else [])])
    choice.check(backend, provider, files)
    if min(prompt_tokens - _LEAST_PROMPT, gen_tokens - 2, repeat - 1) < 0:
        raise UsageError(
            "too little to measure", expected="a prompt of 8 tokens, 2 generated, 1 round at least"
        )
    # A backend's build is another llama.cpp than the one in use, and is looked for below.
    for runtime in {runtimes.of(path) for path in files} if backend is None else ():
        here = runtime.available()
        if not here.ok:
            raise MissingError(
                f"the runtime {runtime.name} is not installed here", todo=here.how_to_install
            )
    contexts = [c for c in (runtimes.of(path).trained_context(path) for path in files) if c]
    prompt_tokens = max(
        _LEAST_PROMPT, min([prompt_tokens, *(c - gen_tokens - CONTEXT_MARGIN for c in contexts)])
    )
    variables = {**offload.variables(backend), **placement.variables(provider)}
    proofs = [_proof(path, backend, provider, threads=threads, progress=progress) for path in files]
    task = {"tokens": gen_tokens, "threads": threads, "prompts": prompts}
    guesses = [_drafted(path, guesser, task, variables) for path in files]
    for path in files:
        _warm(path)
    runs: dict[Path, list[dict[str, Any]]] = {path: [] for path in files}
    progress.start("bench", repeat * len(files), "runs")
    slow: set[Path] = set()
    load = LoadMeter()
    for turn in range(repeat):
        # Every second round goes backwards: a machine that slows down favours neither end.
        for path in files if turn % 2 == 0 else files[::-1]:
            progress.advance(0, path.name)
            if path not in slow:
                begin = time.perf_counter()
                runs[path].append(_measure(path, prompt_tokens, gen_tokens, threads, variables))
                if time.perf_counter() - begin > PATIENCE:
                    slow.add(path)
            progress.advance(1)
    progress.finish()
    busy = load.others()
    rows = [_row(path, runs[path], prompt_tokens, gen_tokens) for path in files]
    return BenchResult(
        replace(row, busy=busy, draft=guess, offload=proof.to_dict() if proof else None)
        for row, guess, proof in zip(rows, guesses, proofs, strict=True)
    )


def _proof(
    path: Path, backend: str | None, provider: str | None, **options: Any
) -> offload.OffloadProof | placement.PlacementProof | None:
    """That it runs on the device that is named; `options` are those of `require`."""
    if provider is not None:
        return placement.require(path, provider, **options)
    return offload.require(path, backend, **options) if backend else None


def _check_there(paths: Sequence[Path]) -> None:
    """Raise UsageError for a path that does not exist."""
    for path in paths:
        if not path.exists():
            raise NotFoundError(
                absent(path), expected="a .gguf file, or a folder that a runtime loads"
            )


def _check_costs(encodings: bool, elsewhere: str | None) -> None:
    """Raise UsageError where costs of encodings cannot be what is asked for."""
    if not encodings:
        raise UsageError(
            "--export and --format are of costs of encodings, and none were asked for",
            expected="--encodings with them",
        )
    if elsewhere is not None:
        raise UsageError(
            f"costs of encodings on {elsewhere}",
            expected="--encodings without --backend and --provider: they are those of the CPU, and "
            "of the GPU that mlx has",
        )


def _measure(
    path: Path,
    prompt_tokens: int,
    gen_tokens: int,
    threads: int | None,
    variables: Mapping[str, str],
) -> dict[str, Any]:
    task = {
        "path": str(path),
        "prompt_tokens": prompt_tokens,
        "gen_tokens": gen_tokens,
        "threads": threads,
    }
    return ask("kanna.benchmark.child", task, f"measuring {path}", variables=variables)


def _guesser(
    draft: str | Path | None, files: Sequence[Path], offline: bool, progress: Progress
) -> Path | str | None:
    """Where the draft model is, or the word for the own head of each file."""
    if draft != OWN_HEAD:
        return locate(draft, offline=offline, progress=progress) if draft is not None else None
    from kanna.runtimes import llama_draft_head

    for path in files:
        if path.exists() and runtimes.of(path).name != _HEADED:
            raise UsageError(
                f"--draft {OWN_HEAD} with {path}",
                expected="GGUF files: llama.cpp alone computes a model's own head",
                todo=f"a file of that name is ./{OWN_HEAD}",
            )
        if path.exists():
            llama_draft_head.require(path)
    return OWN_HEAD


def _prompts(given: str | Path | None, draft: str | Path | None) -> str | None:
    """The file of prompts, read once here: a line that is none ends it before anything runs."""
    if given is None:
        return None
    if draft is None:
        raise UsageError("--draft-prompts without --draft", expected="something that guesses")
    prompt_files.read(Path(given))
    return str(given)


def _drafted(
    path: Path, draft: Path | str | None, task: dict[str, Any], variables: Mapping[str, str]
) -> dict[str, Any] | None:
    """What a draft model, or its own head, is worth to an artefact; None without one."""
    if draft is None:
        return None
    return {"guesser": str(draft)} | guesses.counted(path, draft, variables=variables, **task)


def _row(path: Path, runs: list[dict[str, Any]], prompt_tokens: int, gen_tokens: int) -> BenchRow:
    values = {name: [run[name] for run in runs] for name in _MEASURED}
    joules = [run["joules_per_token"] for run in runs]
    middle = {name: median(v) for name, v in values.items()}
    return BenchRow(
        path=str(path),
        file_bytes=file_bytes(path),
        load_s=middle["load_s"],
        peak_bytes=int(middle["peak_bytes"]),
        ttft_s=middle["ttft_s"],
        prompt_tps=middle["prompt_tps"],
        gen_tps=middle["gen_tps"],
        spread={name: (min(v), max(v)) for name, v in values.items()},
        samples={name: list(map(float, v)) for name, v in values.items()},
        memory=runs[0]["memory"],
        runtime=runtimes.of(path).name,
        joules_per_token=None if None in joules else median(joules),
        energy=runs[0]["energy"],
        repeat=len(runs),
        threads=runs[0]["threads"],
        prompt_tokens=prompt_tokens,
        gen_tokens=gen_tokens,
    )


def _parts(path: Path) -> list[Path]:
    """The files of a folder or of a split artefact, or the file alone."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    stem, dash, tail = path.name.rpartition("-of-")
    if not dash or not stem[-5:].isdigit():
        return [path]
    return sorted(path.parent.glob(f"{stem[:-5]}?????-of-{tail}"))


def file_bytes(path: Path) -> int:
    """Bytes of an artefact on disk, all its parts together."""
    return sum(p.stat().st_size for p in _parts(path))


def _warm(path: Path) -> None:
    """Read the files once, so that the first round finds them in the file cache like the others."""
    for part in _parts(path):
        with part.open("rb") as file:
            while file.read(1 << 24):
                pass
