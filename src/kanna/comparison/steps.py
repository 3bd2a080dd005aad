"""The steps of a comparison, one artefact or one measurement at a time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna import formats as known_formats
from kanna import runtimes
from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna._util.units import format_size, precision_class
from kanna.calibration import statistics
from kanna.comparison.result_cache import Kept
from kanna.comparison.rows import Row
from kanna.errors import GateError, KannaError, MissingError
from kanna.model import Model, num_weights
from kanna.plan import load
from kanna.provenance import TUNING
from kanna.report.write import plain
from kanna.sources import Source

if TYPE_CHECKING:
    from kanna.conversion import ConvertResult


def source_type(source: Source) -> str:
    """The type of 16 bits, `bf16` or `f16`, that holds a source best.

    Float16 for wider or quantized sources, which it holds more exactly.
    """
    weights: dict[str, int] = {}
    for tensor in source.tensors.values():
        weights[tensor.dtype] = weights.get(tensor.dtype, 0) + num_weights(tensor)
    return "bf16" if max(weights, key=lambda k: weights[k]) == "bf16" else "f16"


def base_name(source: Source) -> str:
    """A file name for the model, without folder, ending or the precision it had."""
    name = source.given.removeprefix("builtin:").rstrip("/").replace("\\", "/").split("/")[-1]
    if name in {"", ".", ".."}:
        name = source.path.absolute().name
    name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)
    name = re.sub(
        r"[-._](i?q\d\w*|tq\d\w*|bf16|f16|f32|fp16|fp32|mxfp4|nvfp4)$",
        "",
        name,
        flags=re.IGNORECASE,
    )
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"


def plan(source: Source, path: Path, name: str, role: str, how: Mapping[str, Any]) -> Row:
    """The row of an artefact that is not made yet; raises what makes the conversion impossible.

    Args:
        how: Options of `convert` that decide what is written: preset, plan, imatrix, statistics,
            method.
    """
    from kanna.conversion import ConversionRequest, convert

    made = convert(source, path, ConversionRequest(**how), dry_run=True)
    format, _ = known_formats.parse_preset(None, how.get("preset"))
    return described(made, path, name, role, format)


def described(made: ConvertResult, path: Path, name: str, role: str, format: str) -> Row:
    """The row of what a conversion makes or would make at `path`."""
    data = made.to_dict()
    return Row(
        name=name,
        role=role,
        preset=data["preset"],
        format=format,
        path=str(path),
        file=path.name,
        file_bytes=data["file_bytes"],
        bits_per_weight=data["bits_per_weight"],
        nominal_bits=data["nominal_bits"],
        precision_class=precision_class(data["bits_per_weight"]),
        command=data["command"],
        substitutions=data["substitutions"],
        tensors=data["tensors"],
        notes=list(data["notes"]),
    )


def make(
    row: Row,
    source: Source,
    model: Model,
    hashes: dict[str, str],
    how: Mapping[str, Any],
    threads: int | None,
    overwrite: bool,
    bar: Progress,
    kept: Kept | None = None,
) -> None:
    """Convert, or keep the artefact that is there when it is what would be written.

    Args:
        how: As for `plan`.
        kept: Knows of folders how they were made; without it they are made anew.
    """
    from kanna.benchmark import file_bytes
    from kanna.conversion import ConversionRequest, WriteOptions, convert
    from kanna.hardware.cpu import default_threads

    path = Path(row.path or "")
    in_folder = not known_formats.get(row.format).suffix
    if overwrite or not path.exists():
        same = False
    elif in_folder:
        same = kept is not None and kept.get(str(path), "made", row.command) is not None
    else:
        same = _is_same(path, row, model, hashes, how)
    if same:
        row.reused = True
    else:
        options = WriteOptions(threads=threads or default_threads(), overwrite=True, progress=bar)
        row.seconds = convert(source, path, ConversionRequest(**how), options=options).seconds
        if in_folder and kept is not None:
            kept.put(str(path), "made", {}, row.command)
    row.file_bytes = file_bytes(path)  # of a folder, its tokenizer too: that of a GGUF is inside
    row.command += f" -o {shlex.quote(path.name)}"


def _is_same(
    path: Path, row: Row, model: Model, hashes: dict[str, str], how: Mapping[str, Any]
) -> bool:
    """Whether the artefact at `path` is what would be written.

    Same size, tensors, source, statistics and version.

    The metadata is compared too: a tokenizer or chat template that was mended makes another
    artefact.
    """
    import json

    from kanna import __version__
    from kanna.formats import gguf

    try:
        found = gguf.read(path)
        recorded = json.loads(str(found.value("kanna.source.sha256") or "{}"))
    except (KannaError, ValueError):
        return False
    imatrix = sha256(Path(how["imatrix"])) if how.get("imatrix") else None
    calibrated = statistics.read(how["statistics"]).sha256 if how.get("statistics") else None
    tuning = load(how["plan"]).tuned() if how.get("plan") else None
    return (
        path.stat().st_size == row.file_bytes
        and found.value("kanna.version") == __version__
        and found.value("kanna.plan") == row.preset
        and found.value("kanna.command") == row.command
        and found.value("kanna.imatrix.sha256") == imatrix
        and found.value("kanna.statistics.sha256") == calibrated
        and found.value(TUNING) == (tuning.sha256 if tuning else None)
        and recorded == hashes
        and {t.name: t.dtype for t in found.tensors.values()}
        == {t["name"]: t["encoding"] for t in row.tensors}
        and all(
            _equal(found.value(key), meta.value)
            for key, meta in model.metadata.items()
            if _carried(key)
        )
    )


def _carried(key: str) -> bool:
    """Whether an artefact has this key of its source unchanged."""
    return not key.startswith(("kanna.", "quantize.")) and key not in (
        "general.file_type",
        "general.quantization_version",
    )


def _equal(a: Any, b: Any) -> bool:
    """Equal as stored: lists and arrays by element, floats as float32."""
    if hasattr(a, "__len__") and hasattr(b, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(1.0, abs(b))
    return bool(a == b)


def gate(row: Row, source: Source, threads: int | None, kept: Kept, bar: Progress) -> None:
    """Verify one artefact; what cannot be proved here is said, not raised."""
    from kanna.verification import verify

    artefact = row.path or ""
    data: dict[str, Any] | None = kept.get(artefact, "gate")
    if data is None:
        try:
            data = verify(source, artefact, threads=threads, progress=bar).to_dict()
        except MissingError as error:
            data = {
                "status": "unprovable",
                "checks": [{"name": "runtime", "ok": None, "detail": error.found}],
            }
        except GateError as error:
            data = {
                "status": "failed",
                "checks": [{"name": "gate", "ok": False, "detail": str(error)}],
            }
        if data["status"] == "proved":
            kept.put(artefact, "gate", data)
    row.gate, row.checks = data["status"], data["checks"]


def measure_quality(
    rows: Sequence[Row],
    source: Source,
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    kept: Kept,
    bar: Progress,
    notes: list[str],
) -> dict[str, Any]:
    """Score every artefact that did not fail its gate against the source in float32.

    {} where it cannot be done.
    """
    from kanna.evaluation import evaluate_many

    able = [r for r in rows if r.path and r.gate != "failed"]
    # Artefacts of several runtimes have another reference.
    settings = (
        "source",
        _digest(text),
        windows,
        all(r.format == known_formats.DEFAULT for r in able),
    )
    found = {r.name: kept.get(r.path or "", "quality", *settings) for r in able}
    new = [r for r in able if found[r.name] is None]
    try:
        results = (
            evaluate_many(
                [r.path or "" for r in new],
                reference=source.path,
                text=text,
                windows=windows,
                threads=threads,
                progress=bar,
            )
            if new
            else []
        )
    except MissingError as error:
        notes.append(f"quality was not measured: {error.found}")
        return {}
    for row, result in zip(new, results, strict=True):
        found[row.name] = result.to_dict()
        kept.put(row.path or "", "quality", plain(result.to_dict()), *settings)
    for row in able:
        take(row, found[row.name] or {}, QUALITY)
    one = next((f for f in found.values() if f), None)
    if one is None:
        return {}
    every = [n for f in found.values() if f for n in f["notes"]]
    notes += [n for n in dict.fromkeys(every) if n not in notes]
    return setting(one)


def setting(one: Mapping[str, Any]) -> dict[str, Any]:
    """On what and against what an artefact was evaluated.

    The same for all that were evaluated together.
    """
    return {
        k: one[k]
        for k in ("text", "windows", "context", "positions", "reference", "reference_perplexity")
    }


def _digest(text: str | Path | None) -> str:
    """What was read: the hash of a text file, or the name of the default."""
    return "default" if text is None else sha256(Path(text))


PROMPT = 512
"""Tokens of the prompt in a speed test."""
REPEAT = 3
"""Rounds of the speed test, unless the user says otherwise."""

QUALITY = (
    "kl_mean",
    "kl_mean_ci",
    "kl_median",
    "kl_p99",
    "kl_p999",
    "top1",
    "top1_ci",
    "perplexity",
    "perplexity_ci",
    "perplexity_ratio",
    "perplexity_ratio_ci",
)
SPEED = ("load_s", "peak_bytes", "ttft_s", "prompt_tps", "gen_tps", "joules_per_token")


def take(row: Row, data: Mapping[str, Any], names: Sequence[str] = QUALITY) -> None:
    """Give a row the figures of these names."""
    for name in names:
        setattr(row, name, data[name])


def measure_speed(
    rows: Sequence[Row], repeat: int, threads: int | None, bar: Progress, notes: list[str]
) -> None:
    """Bench every artefact, and compare each with the baseline."""
    from kanna.benchmark import PATIENCE, bench

    able = [r for r in rows if r.path and r.gate != "failed"]
    try:
        found = bench(
            [r.path or "" for r in able],
            prompt_tokens=PROMPT,
            repeat=repeat,
            threads=threads,
            progress=bar,
        )
    except MissingError as error:
        notes.append(f"speed was not measured: {error.found}")
        return
    for row, result in zip(able, found, strict=True):
        take(row, result.to_dict(), SPEED)
    if once := [
        row.name for row, result in zip(able, found, strict=True) if result.repeat < repeat
    ]:
        notes.append(
            f"speed was measured once, for it takes longer than {PATIENCE:.0f} s: {', '.join(once)}"
        )
    if found and found[0].prompt_tokens < PROMPT:
        notes.append(
            f"prompts of the speed test have {found[0].prompt_tokens} tokens: the model's context is short"
        )
    base = next((r for r in able if r.role == "baseline"), None)
    if base is None:
        return
    for row in able:
        if row.gen_tps and base.gen_tps:
            row.speedup = row.gen_tps / base.gen_tps
        if row.peak_bytes and base.peak_bytes:
            row.less_memory = 1 - row.peak_bytes / base.peak_bytes


def floor(
    rows: Sequence[Row],
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    kept: Kept,
    bar: Progress,
) -> Row | None:
    """KL of the Q8_0 artefact against its own weights in float32.

    What the runtime's rounding alone costs.

    No choice of weights can go below it in that runtime. None without a Q8_0 artefact.
    """
    from kanna.evaluation import evaluate

    exact = next((r for r in rows if r.preset == "Q8_0" and r.path and r.gate != "failed"), None)
    if exact is None or exact.path is None:
        return None
    settings = ("itself", _digest(text), windows)
    found = kept.get(exact.path, "floor", *settings)
    if found is None:
        try:
            result = evaluate(
                exact.path,
                reference=exact.path,
                text=text,
                windows=windows,
                threads=threads,
                progress=bar,
            )
        except KannaError:
            return None
        found = plain(result.to_dict())
        kept.put(exact.path, "floor", found, *settings)
    row = Row(
        name="floor",
        role="floor",
        notes=[
            "the Q8_0 weights against themselves in float32: the runtime rounds activations, whatever the weights"
        ],
    )
    take(row, found, [n for n in QUALITY if not n.startswith("perplexity")])
    return row


PUBLISHED = {"builtin:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where the embedded models were published."""


def describe(source: Source, model: Model) -> dict[str, Any]:
    """What the report and the cards say of the source."""
    from kanna.inspection import inspect

    found = inspect(source)
    base = (
        source.given
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source.given) and not Path(source.given).exists()
        else None
    )
    base = base or model.meta("general.base_model.0.repo_url") or model.meta("general.repo_url")
    base = base or PUBLISHED.get(source.given)
    languages = model.meta("general.languages")
    return {
        "name": source.given,
        "title": found.name,
        "kind": found.kind,
        "family": found.family,
        "parameters": model.num_parameters,
        "type": "/".join(t["encoding"] for t in found.types if t["bytes"] > found.bytes / 20),
        "bytes": found.bytes,
        "license": model.meta("general.license") or found.license,
        "license_name": model.meta("general.license.name"),
        "license_link": model.meta("general.license.link"),
        "languages": list(languages) if languages else [],
        "base_model": str(base).removeprefix("https://huggingface.co/") if base else None,
        "revision": source.revision,
        "hash": found.hash,
        "chat_template": found.chat_template["present"],
    }


def versions(formats: Sequence[str]) -> dict[str, str]:
    """Version of the runtime of each format, by format; empty where it is not here."""
    return {f: runtimes.get(known_formats.get(f).runtime).available().version for f in formats}


def environment(
    threads: int | None, formats: Sequence[str] = (known_formats.DEFAULT,)
) -> dict[str, str]:
    """The machine and the runtimes the numbers were measured with."""
    import platform

    import psutil

    from kanna import __version__
    from kanna.hardware.cpu import cpu, default_threads
    from kanna.runtimes.llamacpp import RUNTIME

    others = {
        known_formats.get(f).title: v or "not installed"
        for f, v in versions([f for f in formats if f != known_formats.DEFAULT]).items()
    }
    here, processor = RUNTIME.available(), cpu()
    build = "native" if here.build.get("native") else "generic" if here.ok else ""
    return {
        "CPU": f"{processor.model}, {processor.cores} cores ({', '.join(processor.simd[:4])})",
        "Memory": format_size(psutil.virtual_memory().total),
        "Threads": str(threads or default_threads()),
        "llama.cpp": f"{here.version}, {build} build, {', '.join(here.backends)}"
        if here.ok
        else "not installed",
        **others,
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "kanna": __version__,
    }


def command(
    source: str | Path,
    presets: Sequence[str],
    out: Path,
    text: str | Path | None,
    windows: int | None,
    imatrix: str | Path | None,
    revision: str | None,
    repeat: int,
    formats: Sequence[str] = (known_formats.DEFAULT,),
) -> str:
    """The command line that makes the same comparison again."""
    parts = ["kanna", "compare", str(source), "--presets", ",".join(presets), "-o", str(out)]
    if list(formats) != [known_formats.DEFAULT]:
        parts += ["--formats", ",".join(formats)]
    given = {"--text": text, "--windows": windows, "--imatrix": imatrix, "--revision": revision}
    for option, value in (given | {"--repeat": None if repeat == REPEAT else repeat}).items():
        if value is not None:
            parts += [option, str(value)]
    return shlex.join(parts)
