"""Recipes from configs of Olive: the passes that kanna has, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kanna.errors import FormatError, SourceError
from kanna.escaping import visible, yaml_text
from kanna.recipes import document
from kanna.recipes.document import Value

_PRESETS = {
    "int4": "onnx:int4",
    "uint4": "onnx:int4",
    "int8": "onnx:w8",
    "uint8": "onnx:w8",
    "fp16": "onnx:fp16",
    "fp32": "onnx:fp32",
    "bf16": "onnx:bf16",
    "4": "onnx:int4",
    "8": "onnx:w8",
}
"""Presets by what Olive calls a precision, or by bits."""
_MAKES_A_GRAPH = {
    "onnxconversion": "fp32",
    "optimumconversion": "fp32",
    "mobiusbuilder": "fp32",
    "modelbuilder": "fp32",
}
"""Passes that write a graph, and the precision of those that name none."""
_WEIGHTS = {
    "onnxblockwisertnquantization": "4",
    "onnxmatmul4quantizer": "4",
    "matmulnbits": "4",
    "rtn": "4",
    "kquant": "4",
}
_WHOLE_GRAPH = {
    "onnxkquantquantization": "onnx:int4-mixed",
    "onnxhqqquantization": "onnx:int4",
    "onnxfloattofloat16": "onnx:fp16",
    "ortmixedprecision": "onnx:fp16",
    "onnxdynamicquantization": "onnx:int8",
    "incdynamicquantization": "onnx:int8",
    "onnxstaticquantization": "onnx:w8a8",
    "incstaticquantization": "onnx:w8a8",
    "onnxquantization": "onnx:w8a8",
}
_CALIBRATED = ("gptq", "gptqquantizer", "gptqmodel")
_TRAINED = {"lora": "lora", "qlora": "lora", "dora": "dora"}
"""Passes that train an adapter, and the method of `adapt`."""
_DONE_ANYWAY = {
    "onnxpeepholeoptimizer": "the graph is written as the runtime wants it",
    "orttransformersoptimization": "the graph is written with the runtime's fused operators",
    "onnxscriptfusion": "the graph is written with the runtime's fused operators",
    "addolivemetadata": "provenance is in every file of kanna",
    "onnxiodatatypeconverter": "inputs and outputs have the types that the runtime wants",
}
_METRICS = {
    "latency": "bench",
    "throughput": "bench",
    "size_on_disk": "inspect",
    "accuracy": "evaluate",
}


@dataclass(slots=True)
class _Workflow:
    """What is known of the recipe so far."""

    source: str
    model: str = "${model}"
    options: dict[str, Value] = field(default_factory=dict[str, Value])
    presets: list[str] = field(default_factory=list[str])
    steps: dict[str, Value] = field(default_factory=dict[str, Value])
    left: list[str] = field(default_factory=list[str])


def recipe_from(path: Path) -> tuple[str, list[str]]:
    """The recipe of an Olive config.

    Args:
        path: The config, in JSON or YAML.

    Returns:
        The text, and what it leaves out and why.

    Raises:
        SourceError: It cannot be read.
        FormatError: It is no config of Olive.
    """
    config = document.read(path).value
    if not isinstance(config, dict) or not {"input_model", "passes"} & config.keys():
        raise FormatError(f"{path} is no config of Olive", expected="input_model and passes")
    flow = _Workflow(_source(config, path))
    passes = config.get("passes")
    for name, one in passes.items() if isinstance(passes, dict) else ():
        for entry in one if isinstance(one, list) else [one]:
            _pass(name, entry, flow)
    _convert(flow)
    _measure(config, flow)
    known = ("input_model", "passes", "evaluators", "evaluator", "log_severity_level")
    for name in config:
        if name not in known:
            flow.left.append(f"{name}: {_WHY.get(name, 'it has no counterpart')}")
    variables: dict[str, Value] = {"model": flow.source}
    if "trained" in flow.steps:
        variables["data"] = "./data"
    recipe: dict[str, Value] = {
        "name": path.stem,
        "variables": variables,
        "steps": flow.steps,
        "outputs": {"model": "${model_folder}"},
    }
    head = [f"Made by `kanna recipe convert` of {path.name}."]
    head += [f"Left out: {one}" for one in flow.left]
    text = "".join(f"# {visible(line)}\n" for line in head)
    return text + yaml_text(recipe, width=100), flow.left


_WHY = {
    "search_strategy": "values of a pass that are lists are a matrix here; nothing is sampled",
    "systems": "steps run on this machine",
    "host": "steps run on this machine",
    "target": "steps run on this machine",
    "data_configs": "texts are files here: give them to `calibration` and `text`",
    "output_dir": "name it with -o",
    "cache_dir": "steps are kept in the folder of the run",
    "engine": "where and how it runs is the command line's affair",
    "packaging_config": "add a step of the verb package",
}


def _source(config: Mapping[str, Value], path: Path) -> str:
    given = config.get("input_model")
    options: Mapping[str, Value] = given if isinstance(given, dict) else {}
    inner = options.get("config")
    options = {**options, **inner} if isinstance(inner, dict) else options
    for name in ("model_path", "hf_config"):
        value = options.get(name)
        value = value.get("model_name") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    raise SourceError(f"{path} names no model", expected="input_model with model_path")


def _pass(name: str, given: Value, flow: _Workflow) -> None:
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        flow.left.append(f"{name}: it has no type")
        return
    inner = given.get("config")
    options = {**given, **inner} if isinstance(inner, dict) else given
    title = str(given["type"])
    kind = title.lower()
    used = {"type", "config"}
    if kind in _MAKES_A_GRAPH:
        used.add("precision")
        flow.presets = _presets(options.get("precision", _MAKES_A_GRAPH[kind]), name, flow)
    elif kind in _WEIGHTS:
        used.update(("bits", "precision"))
        bits = options.get("precision", options.get("bits", _WEIGHTS[kind]))
        flow.presets = _presets(bits, name, flow)
    elif kind in _WHOLE_GRAPH:
        flow.presets = [_WHOLE_GRAPH[kind]]
    elif kind in _CALIBRATED:
        used.update(("bits", "precision"))
        flow.presets = _presets(options.get("bits", options.get("precision", "4")), name, flow)
        flow.steps["statistics"] = {"verb": "calibrate", "with": {"source": flow.model}}
        flow.options |= {"statistics": "${statistics}", "method": "gptq"}
        flow.left.append(f"{name} ({title}): its data; statistics are of the built-in texts")
    elif kind in _TRAINED:
        used |= _train(kind, options, flow)
        flow.left.append(f"{name} ({title}): its data; set the variable data to yours")
    elif kind in _DONE_ANYWAY:
        return
    else:
        flow.left.append(f"{name} ({title}): kanna has no such pass")
        return
    others = sorted(options.keys() - used)
    if others:
        flow.left.append(f"{name} ({title}): {', '.join(others)}, which have no counterpart")


def _train(kind: str, options: Mapping[str, Value], flow: _Workflow) -> set[str]:
    """Add the steps that train an adapter and merge it; returns the names of what was used."""
    names = {"r": "rank", "alpha": "alpha", "learning_rate": "learning_rate"}
    inner = options.get("training_args")
    given = {**options, **inner} if isinstance(inner, dict) else options
    known: dict[str, Value] = {
        ours: given[theirs] for theirs, ours in names.items() if isinstance(given.get(theirs), int)
    } | {n: given[n] for n in ("learning_rate",) if isinstance(given.get(n), float)}
    method: Value = _TRAINED[kind]
    trained: dict[str, Value] = {"source": "${model}", "data": "${data}", "method": method}
    flow.steps["trained"] = {"verb": "adapt", "with": trained | known}
    flow.steps["merged"] = {
        "verb": "merge",
        "with": {"source": "${model}", "adapter": "${trained}"},
    }
    flow.model = "${merged}"
    return {"training_args", *names}


def _presets(given: Value, name: str, flow: _Workflow) -> list[str]:
    """Presets of the precisions or bits that a pass names, one or several to choose from."""
    values = given if isinstance(given, list) else [given]
    known = [p for value in values if (p := _PRESETS.get(str(value).lower())) is not None]
    for value in values:
        if str(value).lower() not in _PRESETS:
            flow.left.append(f"{name}: the precision {value}, which has no preset")
    return list(dict.fromkeys(known))


def _convert(flow: _Workflow) -> None:
    """Add the step that writes the model: kanna does in one verb what Olive does in a chain."""
    options: dict[str, Value] = {"source": flow.model}
    step: dict[str, Value] = {"verb": "convert"}
    if len(flow.presets) > 1:
        step["for"] = {"preset": [*flow.presets]}
        options["preset"] = "${preset}"
    else:
        options["preset"] = flow.presets[0] if flow.presets else "onnx:fp32"
    step["with"] = options | flow.options
    flow.steps["model_folder"] = step


def _measure(config: Mapping[str, Value], flow: _Workflow) -> None:
    """Add a step for the metrics of the evaluators."""
    evaluators = config.get("evaluators")
    wanted: dict[str, None] = {}
    for name, one in evaluators.items() if isinstance(evaluators, dict) else ():
        metrics = one.get("metrics") if isinstance(one, dict) else None
        for metric in metrics if isinstance(metrics, list) else ():
            kind = str(metric.get("type", "")) if isinstance(metric, dict) else ""
            if kind in _METRICS:
                wanted[_METRICS[kind]] = None
            else:
                flow.left.append(f"{name}: the metric {kind or 'without a type'}")
            if kind == "accuracy":
                flow.left.append(f"{name}: its task; closeness to the original is measured instead")
    for verb in wanted:
        options: dict[str, dict[str, Value]] = {
            "bench": {"paths": "${model_folder}"},
            "inspect": {"source": "${model_folder}"},
            "evaluate": {"artefact": "${model_folder}", "reference": flow.model},
        }
        flow.steps[verb] = {"verb": verb, "with": options[verb]}
