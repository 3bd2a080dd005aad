"""Telemetry of the libraries that kanna loads, switched off.

Some libraries report their use: onnxruntime and onnxruntime-genai write a device id below the home
folder and look up a host of their maker as soon as they are loaded. Each reads a variable of the
environment when it loads, so the variables are set when `kanna` is imported: before any library,
and in every process, since each of ours imports `kanna` first. OpenVINO has no variable: a package
of its own writes a client id below the home folder and reports the import, and OpenVINO does
without where that package cannot be imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, onnxruntime-genai
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and through it transformers and datasets
    "DISABLE_TELEMETRY": "1",  # huggingface_hub, by its older name
    "DO_NOT_TRACK": "1",  # huggingface_hub, mlflow, and whoever follows consoledonottrack.com
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",  # transformers loads it where it is installed
    "VLLM_NO_USAGE_STATS": "1",
}
"""Variable → the value that switches the reports of a library off."""

REPORTERS = ("openvino_telemetry",)
"""Packages that do nothing but report: none is imported."""


def switch_off() -> None:
    """Set every variable, whatever it was: what is loaded after this reports nothing."""
    os.environ.update(SWITCHES)
    modules: dict[str, Any] = sys.modules
    for name in REPORTERS:
        modules.setdefault(name, None)
