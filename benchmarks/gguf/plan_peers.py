"""The closest file at equal bytes, beside other tools that make GGUFs by measurement.

    python -m benchmarks.gguf.plan_peers --peers auto-round --max
    python -m benchmarks.gguf.plan_peers --peers quantprobe,pollard --pollard pollard-weights/tools

auto-round tunes the rounding of every block by signed gradient descent (`iters 200`, `alg_ext`: its
best recipe), or searches scales (`iters 0`), on the calibration text that kanna's statistics are
made from. quantprobe crushes bands of layers to 2 bits, measures each, and protects the worst;
Pollard Weights does so by kind of matrix and fills a budget: both get llama-imatrix's matrix of
that text, and measure on the windows that are held out of it. Ours is the plan of `kanna optimize`
within the peer's bytes, its values by `gptq`, nothing tuned; with `--max` also what all of `kanna
optimize --effort max` makes of these bytes. Scored as in optimize_quality.py. The tools of PyPI
live in environments of their own, made on first use; Pollard Weights is on GitHub alone, and is run
from its checkout.

A file that a peer has finished is taken from the cache in the next run, with the command that made
it and what that took in a JSON file beside its folder. A peer that fails ends none of the others.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
from benchmarks.common import llamacpp, processes, tables, workload
from benchmarks.common.optimize_stages import StageRunner
from benchmarks.common.processes import Run
from benchmarks.common.result_file import cached
from benchmarks.common.workload import Workload

import kanna
from kanna.sources import packages

REQUIREMENTS = {
    "auto-round": ("auto-round==0.16.1", "torch==2.13.0", "gguf", "sentencepiece"),
    "quantprobe": ("quantprobe==1.37.0",),
}
SCHEMES = ("q2_k_s", "q3_k_s", "q4_k_m")
"""Of auto-round's GGUF schemes."""
BUDGETS = ("Q2_K", "Q3_K_M", "Q4_K_M")
"""Presets of llama-quantize whose bytes Pollard Weights fills."""
POLLARD_SHARE = 0.85
"""Of the memory that it is told of, what it gives to weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTools:
    """One model, and where the tools are.

    Attributes:
        work: The model and its text.
        matrix: llama-imatrix's matrix of the calibration text.
        pollard: The folder of the scripts of Pollard Weights.
    """

    work: Workload
    matrix: Path
    pollard: Path | None = None

    def auto_round(self) -> Iterator[tuple[str, Path, Run]]:
        """A file of every scheme, by both of its ways."""
        program = _environment("auto-round") / "auto-round"
        text = self.work.calibration_text()
        for scheme in self.work.options.schemes.split(","):
            for way, more in (("iters 200", ["--enable_alg_ext"]), ("iters 0", [])):
                folder = self.folder / f"auto-round-{scheme}-{way[6:]}"
                command = [program, "--model", self.work.hf_folder(), "--output_dir", folder]
                command += ["--scheme", f"gguf:{scheme}", "--format", f"gguf:{scheme}"]
                command += ["--dataset", text.rows, "--nsamples", text.count, "--seqlen"]
                command += [text.window - 1, "--iters", way[6:], "--device_map", "cpu", *more]
                yield f"{scheme}, {way}", *self._made(folder, command, HF_HUB_OFFLINE="1")

    def quantprobe(self) -> Iterator[tuple[str, Path, Run]]:
        """The one file that it recommends."""
        folder = self.folder / "quantprobe"
        command = [_environment("quantprobe") / "quantprobe", "probe", "--gguf", self.work.path]
        command += ["--eval", self.held_out(), "--imatrix", self.matrix]
        command += ["--llama-dir", llamacpp.tool("llama-quantize").parent, "--ngl", 0]
        command += ["--workdir", folder, "--apply", "--out", folder / "out.gguf", "--yes"]
        yield "recommended", *self._made(folder, command)

    def pollards(self) -> Iterator[tuple[str, Path, Run]]:
        """A file for every budget, of one measurement."""
        if self.pollard is None:
            raise SystemExit("--pollard: say where its scripts are")
        folder = self.folder / "pollard-sensitivity"
        quantize = llamacpp.tool("llama-quantize")
        common = ["--gguf", self.work.path, "--imatrix", self.matrix, "--llama-quantize", quantize]
        command = [sys.executable, self.pollard / "pollard_sensitivity.py", *common]
        command += ["--llama-perplexity", llamacpp.tool("llama-perplexity")]
        command += ["--eval", self.held_out(), "--out", folder / "sensitivity.json"]
        measured, sensitivity = self._made(folder, command, "json")
        for preset in BUDGETS:
            memory = self._preset_bytes(preset) / POLLARD_SHARE / 1e9
            folder = self.folder / f"pollard-{preset}"
            command = [sys.executable, self.pollard / "pollard_fit.py", *common]
            command += ["--out", folder / "out.gguf", "--sensitivity", measured]
            command += ["--reserve", 0, "--ram", memory]
            out, fit = self._made(folder, command)
            yield f"{preset}'s bytes", out, processes.in_sequence([sensitivity, fit])

    @property
    def folder(self) -> Path:
        """Where the files of all peers lie, a folder for each."""
        return self.work.folder / "peers"

    def held_out(self) -> Path:
        """What no statistics are made from: both tools ask for such a text to measure on."""
        path = self.folder / "held-out.txt"
        self.folder.mkdir(exist_ok=True)
        path.write_text(self.work.windows.held_text, encoding="utf-8")
        return path

    def _preset_bytes(self, preset: str) -> int:
        """What llama-quantize's file of a preset takes."""
        out, threads = self.folder / "preset.gguf", self.work.threads
        processes.run(
            llamacpp.quantize(self.work.path, out, preset, threads=threads, imatrix=self.matrix)
        )
        return out.stat().st_size

    def _made(
        self, folder: Path, command: list[Any], suffix: str = "gguf", **environment: str
    ) -> tuple[Path, Run]:
        """The file that a command leaves in a folder, and what that took.

        Both are those of an earlier run in which the same command ended.

        Raises:
            RuntimeError: The command failed, or left no such file.
        """
        words, threads = [str(part) for part in command], str(self.work.threads)

        def files() -> list[Path]:
            return sorted(folder.rglob(f"*.{suffix}"), key=lambda path: path.stat().st_size)

        def make() -> dict[str, Any]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            run = processes.run(
                words, children=True, cwd=None, LLAMA_ARG_THREADS=threads, **environment
            )
            if not files():
                raise RuntimeError(f"{words[0]} ended without a .{suffix} in {folder}")
            return asdict(run)

        again = self.work.options.again or not files()
        record = folder.parent / f"{folder.name}.json"
        run = Run(**cached(record, {"command": words}, make, again=again))
        return files()[-1], run


PEERS: dict[str, Callable[[PeerTools], Iterator[tuple[str, Path, Run]]]] = {
    "auto-round": PeerTools.auto_round,
    "quantprobe": PeerTools.quantprobe,
    "pollard": PeerTools.pollards,
}


def main() -> None:
    parser = workload.parser(__doc__, windows=5)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--pollard", type=Path, help="the folder tools of a checkout")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="of auto-round")
    parser.add_argument("--max", action="store_true", help="put `optimize --effort max` beside")
    parser.set_defaults(model="stories_wide")
    options = parser.parse_args()
    work = Workload(options)
    stages = work.stages()
    text = work.calibration_text()
    matrix = work.folder / "imatrix.gguf"
    if not matrix.exists():
        llamacpp.make_imatrix(work.path, text.plain, matrix, ["-c", text.window, "-t", 2])
    tools = PeerTools(work=work, matrix=matrix, pollard=options.pollard)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for peer in options.peers.split(","):
        try:
            for kind, theirs, run in PEERS[peer](tools):
                rows.append({"peer": peer, "file": kind, **_beside(stages, work, theirs, run)})
                tables.print_rows(rows[-1:], options.json)
        except RuntimeError as error:
            failed[peer] = str(error)
            print(f"{peer}: {error}", file=sys.stderr, flush=True)
    tables.print_rows(rows, options.json)
    if failed:
        raise SystemExit(f"no further rows, see above: {', '.join(failed)}")


def _beside(stages: StageRunner, work: Workload, theirs: Path, run: Run) -> dict[str, Any]:
    """A peer's file beside ours of at most its bytes."""
    plan, ours = work.folder / "peers" / "plan.json", work.folder / "peers" / "ours.gguf"
    stages.run("allocate", theirs.stat().st_size, plan)
    stages.write(plan, ours)
    scored = work.folder / "peers" / "theirs.gguf"
    _with_metadata(theirs, work.path, scored)
    files = [scored, ours]
    if work.options.max:
        files.append(_with_all(work, theirs.stat().st_size))
    kl = work.mean_divergences(files)
    return {
        "MB": theirs.stat().st_size / 1e6,
        "MB ours": ours.stat().st_size / 1e6,
        "KL": kl[0],
        "KL ours": kl[1],
        "ours ÷": kl[1] / kl[0],
        "max ÷": kl[2] / kl[0] if work.options.max else "",
        "CPU s": asdict(run)["cpu"],
        "peak MB": run.resident / 1e6,
    }


def _with_all(work: Workload, size: int) -> Path:
    """What the whole command makes of so many bytes."""
    result = kanna.optimize(
        work.path,
        work.folder / "peers" / f"max-{size}",
        size=size,
        effort="max",
        tokens=work.options.tokens,
        threads=work.threads,
    )
    return result.artefact


def _with_metadata(theirs: Path, source: Path, out: Path) -> None:
    """Write the tensors of one file with the metadata of another.

    What auto-round writes of a SentencePiece vocabulary splits text otherwise than the model does,
    which is no matter of its values.
    """
    values, about = gguf.GGUFReader(theirs), gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, str(about.fields["general.architecture"].contents()))
    for key, part in about.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = part.types[1] if part.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, part.contents(), part.types[0], sub)
    for tensor in values.tensors:
        if tensor.name in {t.name for t in about.tensors}:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _environment(name: str) -> Path:
    """The programs of an environment that has a tool."""
    folder = packages.cache_dir() / "peers" / name
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *REQUIREMENTS[name]], check=True)
        (folder / "ready").touch()
    return folder / "bin"


if __name__ == "__main__":
    main()
