"""4-bit ONNX at equal bytes, beside Olive's int4 passes.

    python -m benchmarks.onnx.olive_quality --model dithered

Olive lives in an environment of its own, made on first use: torch, transformers and onnxruntime of
our versions. It quantizes the Hugging Face folder (its passes Rtn, KQuant and Gptq, in groups of
32, head included), and onnxruntime-genai's model builder makes the ONNX folder of that: Olive's own
pass for it looks for a module of the builder that 0.18 has not. The embedding is left to the
builder, whose loader knows no embedding in codes: it takes its 4 bits by rounding. Gptq reads the
same calibration text as kanna. Scored as in int4_quality.py, in this environment's onnxruntime.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import processes, tables, workload
from benchmarks.common.workload import CalibrationText, Workload
from benchmarks.onnx.int4_quality import at_equal_bytes, builder
from benchmarks.onnx.our_side import OurOnnx

from kanna.sources import packages

REQUIREMENTS = (
    "olive-ai==0.13.0",
    "torch==2.13.0",
    "transformers==5.24.0",
    "onnxruntime==1.32.0",
    "onnxruntime-genai==0.18.0",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "datasets",
    "accelerate",
    "sentencepiece",
    "requests",  # which Olive imports and does not ask for
)
QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "CI": "1"}
"""No telemetry and no hub; in a CI Olive says nothing of itself either."""

_INT4 = {"bits": 4, "group_size": 32, "sym": False, "lm_head": True}
_EIGHT = {"overrides": {"lm_head": {"bits": 8}}}
_GPTQ = {"type": "Gptq", **_INT4, "data_config": "text"}
PASSES: dict[str, list[dict[str, Any]]] = {
    "rtn": [{"type": "Rtn", **_INT4}],
    "kquant": [{"type": "KQuant", **_INT4}],
    "gptq": [_GPTQ],
    "gptq, head in 8 bits": [_GPTQ | _EIGHT],
    "k_quant_mixed + gptq": [
        {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_mixed"},
        _GPTQ,
    ],
}


def environment(folder: Path) -> Path:
    """The interpreter that has Olive."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        (folder / "ready").touch()
    return python


def workflow(work: Workload, passes: str, text: CalibrationText, out: Path) -> dict[str, Any]:
    """Olive's run configuration."""
    preprocessing = {
        "type": "text_generation_huggingface_pre_process",
        "text_cols": ["text"],
        "strategy": "line-by-line",
        "max_seq_len": text.window,
        "max_samples": text.count,
        "add_special_tokens": False,
    }
    dataset = {"data_name": "json", "data_files": str(text.rows), "split": "train"}
    device = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    return {
        "input_model": {
            "type": "HfModel",
            "model_path": str(work.hf_folder("f32")),
            "task": "text-generation",
        },
        "systems": {"here": {"type": "LocalSystem", "accelerators": [device]}},
        "data_configs": [
            {
                "name": "text",
                "type": "HuggingfaceContainer",
                "load_dataset_config": dataset,
                "pre_process_data_config": preprocessing,
                "post_process_data_config": {"type": "text_generation_post_process"},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "passes": {f"step{i}": step for i, step in enumerate(PASSES[passes])},
        "host": "here",
        "target": "here",
        "cache_dir": str(out.parent / "cache"),
        "output_dir": str(out),
    }


def row(ours: OurOnnx, text: CalibrationText, python: Path, passes: str) -> dict[str, Any]:
    """One of Olive's ways, beside ours; why there is none where it fails."""
    folder = ours.workload.folder / "olive" / passes.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "config.json"
    config.write_text(json.dumps(workflow(ours.workload, passes, text, folder / "out"), indent=1))
    theirs = folder / "theirs"
    try:
        command = [python, "-m", "olive", "run", "--run-config", config, "--disable_telemetry"]
        run = processes.run(command, children=True, **QUIET, HF_HOME=str(folder / "hf"))
        written = sorted((folder / "out").rglob("model.safetensors*"))
        if not written:
            raise RuntimeError("Olive ended without a model")
        source = written[0].parent
        processes.run(builder(source, theirs, folder / "cache", "default", True), **QUIET)
    except RuntimeError as error:
        return {"olive": passes, "failed": str(error).strip()[-1500:]}
    shutil.rmtree(folder / "cache")
    shutil.rmtree(folder / "out")
    cost = {"s Olive": run.seconds, "GB Olive": run.anonymous / 1e9}
    return {"olive": passes} | at_equal_bytes(ours, theirs, "Olive") | cost


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--ways", default="|".join(PASSES), help="separated by |")
    parser.add_argument(
        "--olive",
        type=Path,
        default=packages.cache_dir() / "peers" / "olive",
        help="its environment",
    )
    parser.add_argument(
        "--no-values", action="store_true", help="not Olive's own widths with our values"
    )
    parser.set_defaults(fast=False)
    options = parser.parse_args()
    python = environment(options.olive)
    work = Workload(options, "onnxruntime", "onnxruntime-genai")
    work.key["olive"] = REQUIREMENTS[0]
    ours, text = OurOnnx(work), work.calibration_text()
    rows = [
        work.cached(f"olive/{passes}", row, ours, text, python, passes)
        for passes in options.ways.split("|")
    ]
    tables.print_successes(rows, "olive", options.json)


if __name__ == "__main__":
    main()
