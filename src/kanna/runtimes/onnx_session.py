"""A graph in an onnxruntime session, on the CPU or on the execution provider that is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from kanna.errors import FormatError, MissingError
from kanna.formats.onnx.files import check_sizes, load
from kanna.formats.onnx.last_rows import keep_last_rows
from kanna.formats.onnx.qdq import EXACT_PRODUCTS
from kanna.hardware import providers
from kanna.hardware.providers import Plugin, ProviderProfile

VARIABLE = "KANNA_ONNX_PROVIDER"
"""Names the execution provider of every session of this process and of its children."""
GRAPH = "KANNA_ONNX_GRAPH"
"""Names the only graph that is computed there, where others would get in its way: a process holds
one graph of QNN's on x86-64, and gives the second to the CPU without a word."""
_CPU = "CPUExecutionProvider"
_RECORD = "session.record_ep_graph_assignment_info"
"""Without it onnxruntime forgets which provider has which node."""
_DATA = "session.model_external_initializers_file_folder_path"
"""Where the weights of a graph in memory lie."""
_LARGEST = 64 << 20
"""Bytes of a graph that is changed in memory: a larger one has its weights in it."""


def wanted(graph: Path) -> ProviderProfile | None:
    """The execution provider that the environment asks for; None: the CPU, as ever."""
    name, only = os.environ.get(VARIABLE), os.environ.get(GRAPH)
    return providers.get(name) if name and only in (None, graph.name) else None


def session(lib: Any, graph: Path, threads: int | None) -> Any:
    """A session of a graph whose sizes were checked; threads of its choice for None.

    Raises:
        FormatError: onnxruntime refuses it; with its own words.
        MissingError: The execution provider that the environment asks for is not here.
    """
    check_sizes(graph)
    return open_session(lib, graph, wanted(graph), threads=threads)


def pruned_session(lib: Any, graph: Path, threads: int | None, logits: str) -> Any:
    """A session of a decoder; on the CPU its head reads the last rows alone, see `KEPT`.

    Args:
        lib: onnxruntime.
        graph: The decoder's graph.
        threads: Of the CPU; None: as many as onnxruntime likes.
        logits: The name of the graph's output.

    Raises:
        FormatError, MissingError: As of `session`.
    """
    check_sizes(graph)
    profile, content = wanted(graph), None
    if profile is None and graph.stat().st_size <= _LARGEST:
        model = load(graph)
        if keep_last_rows(model, logits):
            content = model.SerializeToString()
    return open_session(lib, graph, profile, threads=threads, content=content)


def open_session(
    lib: Any,
    graph: Path,
    profile: ProviderProfile | None,
    *,
    threads: int | None = None,
    entries: dict[str, str] | None = None,
    content: bytes | None = None,
) -> Any:
    """A session on an execution provider.

    Args:
        lib: onnxruntime.
        graph: The graph.
        profile: The provider; None: the CPU.
        threads: Of the CPU; None: as many as onnxruntime likes.
        entries: Of the session's configuration.
        content: The graph as it is opened, where it is another one than in the file.

    Raises:
        FormatError: onnxruntime refuses the graph; with its own words.
        MissingError: The provider is not here, or sees no device of its own.
    """
    options = lib.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    names: list[Any] = [_CPU]
    for key, value in (EXACT_PRODUCTS | (entries or {})).items():
        options.add_session_config_entry(key, value)
    if content is not None:
        options.add_session_config_entry(_DATA, str(graph.parent))
    if profile is not None:
        options.add_session_config_entry(_RECORD, "1")
        names = use(lib, options, profile)
    try:
        return lib.InferenceSession(content or str(graph), options, providers=names or None)
    except Exception as error:  # its exceptions share no base but RuntimeError and Exception
        reason = " ".join(str(error).split())[:400]
        on = "the CPU" if profile is None else profile.provider
        raise FormatError(
            f"onnxruntime cannot load {graph}: {reason}",
            expected=f"operators and types that {on} runs",
            todo="convert again, with another preset where an operator or a type is missing",
        ) from error


def use(lib: Any, options: Any, profile: ProviderProfile) -> list[Any]:
    """Ask a session's options for a provider; the names that the session is to be given.

    Raises:
        MissingError: It is not here, or sees no device of its own.
    """
    if profile.provider == _CPU:
        return [_CPU]
    if profile.provider in lib.get_available_providers():
        return [(profile.provider, dict(profile.options)), _CPU]
    plugin = profile.plugin
    if plugin is None or importlib.util.find_spec(plugin.module) is None:
        raise MissingError(
            f"{profile.provider} is not in this onnxruntime {lib.__version__}",
            expected=f"the package {profile.package}",
            todo=f"on a machine for it, {profile.title}: install {profile.package} beside kanna",
        )
    devices = _devices(lib, profile, plugin)
    if not devices:
        raise MissingError(
            f"{profile.provider} is here and sees no device of its own",
            expected=f"a machine with {profile.title}",
            todo="its driver may be missing; `kanna doctor` shows what this machine has",
        )
    module = importlib.import_module(plugin.module)
    paths = {option: str(getattr(module, name)()) for option, name in plugin.paths.items()}
    options.add_provider_for_devices(devices[:1], {**profile.options, **paths})
    return []


def _devices(lib: Any, profile: ProviderProfile, plugin: Plugin) -> list[Any]:
    """The devices of a provider's library, which is registered the first time."""
    module = importlib.import_module(plugin.module)

    def seen() -> list[Any]:
        return [one for one in lib.get_ep_devices() if one.ep_name == profile.provider]

    if not seen():
        lib.register_execution_provider_library(profile.provider, module.get_library_path())
    return seen()
