"""What a folder without config.json is, for who took it for a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna.errors import SourceError
from kanna.sources import hub


def error(path: Path, files: Mapping[str, Path]) -> SourceError:
    """The error for a folder without config.json.

    Args:
        path: The folder.
        files: The files in it, by name.
    """
    if "genai_config.json" in files or "model.onnx" in files:
        return SourceError(
            f"{path} is an ONNX folder: nothing is read back from it",
            expected="the source it was made from",
            todo=f"kanna verify SRC {path}, kanna evaluate {path} --reference SRC, "
            f"kanna bench {path}",
        )
    ggufs = [n for n in files if n.endswith(".gguf")]
    if ggufs:
        return SourceError(
            f"{path} is a folder of GGUF files", todo=f"give one of them: {path / ggufs[0]}"
        )
    return SourceError(
        f"{path} has no config.json",
        expected="a Hugging Face model folder",
        todo="give the folder of the model",
    )


def pickled(path: Path, name: str) -> SourceError:
    """The error for a folder whose weights are in `name`, a file that may be a pickle."""
    if name.startswith("openvino_"):
        return SourceError(
            f"{path} has weights of OpenVINO, and openvino_model.xml is missing",
            expected="the graph beside its weights",
            todo="copy or convert the folder again",
        )
    return hub.pickled(name)
