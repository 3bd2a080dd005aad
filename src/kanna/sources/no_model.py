"""What is said to who named something that is no model: nothing, or a folder of something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from kanna._util.nearest import absent
from kanna.errors import NotFoundError, SourceError
from kanna.sources import hub, references


def absent_source(given: str, builtin: Collection[str]) -> NotFoundError:
    """The error for a name at which there is nothing.

    Args:
        given: What the user wrote.
        builtin: Names of built-in models, one of which may have been meant.
    """
    close = get_close_matches(given.lower(), builtin, 1, 0.8)
    meant = f" (the built-in model is builtin:{close[0]})" if close else ""
    return NotFoundError(absent(given) + meant, expected=references.FORMS)


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
