"""This machine and its runtimes, and what to install for more."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kanna._util import extras
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.benchmark.llama_builds import gain
from kanna.libllama.devices import REGISTERED
from kanna.runtime.inventory import describe, installed_builds
from kanna.runtimes import get as get_runtime
from kanna.runtimes import names as runtime_names

# Import name → (distribution, what it is for, how to install it).
_EXTRAS = {
    "torch": ("torch", "calibration, LoRA and reference logits", extras.command("torch")),
    "transformers": (
        "transformers",
        "comparing a family with transformers",
        extras.command("torch"),
    ),
    "huggingface_hub": ("huggingface_hub", "models by hub id", "pip install huggingface_hub"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something that is missing or could be better: why, and the command that changes it."""

    why: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Doctor(Result):
    """The state of this machine and of what kanna can use on it.

    Attributes:
        machine: `hardware.probe()`.
        native: kanna's own compiled core: ok, version or error, SIMD path in use.
        runtimes: By name, `Availability` as dictionaries.
        packages: Optional packages: version, or None when absent.
        advice: What to install or change, and why.
        sections: The same for people: titles with name–value pairs.
    """

    machine: dict[str, Any]
    native: dict[str, Any]
    runtimes: dict[str, dict[str, Any]]
    packages: dict[str, str | None]
    advice: list[Advice]
    sections: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def headline(self) -> str:
        """What could be better."""
        return f"{len(self.advice)} remarks: {self.advice[0].why}" if self.advice else "all is well"

    def tables(self) -> list[ResultTable]:
        """A table per section, and the advice."""
        advice = [(one.why, one.command) for one in self.advice]
        listed = [
            ResultTable(columns=("", ""), rows=section["facts"], title=section["title"])
            for section in self.sections
        ]
        return [*listed, *([ResultTable(columns=("advice", ""), rows=advice)] if advice else [])]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def doctor() -> Doctor:
    """Probe this machine, the native core, every runtime and the optional packages.

    Never raises.
    """
    from kanna import hardware

    machine = hardware.probe().to_dict()
    native = _native()
    states = {name: get_runtime(name).available().to_dict() for name in runtime_names()}
    if states["llamacpp"]["ok"] and (measured := gain()):
        states["llamacpp"]["build"]["native_gain"] = measured.to_dict()
    states["llamacpp"]["installed"] = [asdict(one) for one in installed_builds()]
    packages = {
        name: _version(entry[0]) if _installed(name) else None for name, entry in _EXTRAS.items()
    }
    return Doctor(
        machine=machine,
        native=native,
        runtimes=states,
        packages=packages,
        advice=_advice(native, states, packages) + _gpu_advice(machine, states.get("llamacpp", {})),
        sections=[
            {"title": "Machine", "facts": _machine_facts(machine)},
            {"title": "kanna", "facts": _own_facts(native, packages)},
            *(
                {"title": get_runtime(name).title, "facts": _runtime_facts(state)}
                for name, state in states.items()
            ),
        ],
    )


def _native() -> dict[str, Any]:
    """Whether the compiled core loads, and with which instructions it runs."""
    try:
        from kanna import _native as core  # type: ignore[attr-defined]
    except ImportError as error:
        return {"ok": False, "error": str(error)}
    simd = next(
        (
            getattr(core, n)
            for n in ("simd", "simd_level", "active_simd", "isa")
            if hasattr(core, n)
        ),
        None,
    )
    return {"ok": True, "simd": str(simd() if callable(simd) else simd or "")}


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _advice(
    native: dict[str, Any], states: dict[str, dict[str, Any]], packages: dict[str, str | None]
) -> list[Advice]:
    advice: list[Advice] = []
    if not native["ok"]:
        advice.append(
            Advice(
                why=f"kanna's compiled core does not load: {native['error']}",
                command=f"{extras.command('')} --force-reinstall",
            )
        )
    for name, state in states.items():
        title = get_runtime(name).title
        if not state["ok"]:
            why = (
                f"{title} is missing: needed by verify, evaluate, bench, compare, generate and chat"
            )
            advice.append(
                Advice(
                    why=f"{why} ({state['remark']})" if state["remark"] else why,
                    command=state["how_to_install"],
                )
            )
        elif state["how_to_install"]:
            advice.append(
                Advice(why=f"{title}: {state['remark']}", command=state["how_to_install"])
            )
    for name, installed in packages.items():
        if installed is None:
            _, purpose, install = _EXTRAS[name]
            advice.append(
                Advice(why=f"{name} is not installed: it is for {purpose}", command=install)
            )
    return advice


def _gpu_advice(machine: dict[str, Any], llamacpp: dict[str, Any]) -> list[Advice]:
    """For each GPU that the llama.cpp build in use cannot reach, the build that can."""
    by_api: dict[str, Advice] = {}
    backends = {registered.lower(): name for name, registered in REGISTERED.items()}
    backends["metal"] = "metal"
    for device in machine["accelerators"]:
        api = device["api"]
        backend = backends.get(api.lower())
        if device["kind"] != "gpu" or not backend or _reaches(llamacpp.get("backends", []), api):
            continue
        there = [one for one in llamacpp.get("installed", []) if one["backend"] == backend]
        command = f"kanna runtime use {there[0]['name']}" if there else ""
        by_api[api] = Advice(
            why=f"{device['name']}: the llama.cpp in use was built without {api} and leaves it "
            "idle",
            command=command or f"kanna runtime install llamacpp --backend {backend}",
        )
    return list(by_api.values())


def _reaches(backends: list[str], api: str) -> bool:
    names = {"ROCm": ("rocm", "hip"), "Metal": ("metal", "mtl")}.get(api, (api.lower(),))
    return any(n in b.lower() for b in backends for n in names)


def _own_facts(native: dict[str, Any], packages: dict[str, str | None]) -> list[tuple[str, str]]:
    from kanna import __version__

    core = (
        "does not load"
        if not native["ok"]
        else "loads" + (f", runs with {native['simd']}" if native["simd"] else "")
    )
    return [
        ("Version", f"{__version__}, Python {platform.python_version()} ({sys.executable})"),
        ("Compiled core", core),
        *((name, version or "not installed") for name, version in packages.items()),
    ]


def _runtime_facts(state: dict[str, Any]) -> list[tuple[str, str]]:
    if not state["ok"]:
        return [("State", f"not usable: {state['remark']}")]
    build = state["build"]
    kind = ""
    if build.get("native"):
        kind = "native: uses all that this CPU offers"
    elif build.get("missing"):
        kind = f"{build.get('kind', 'generic')}, without {_list(build['missing'])}"
    gained: dict[str, float] | None = build.get("native_gain")
    return [
        ("Version", state["version"]),
        ("Build", kind),
        ("  native build", _gain(gained) if gained else ""),
        ("Uses", _list(build.get("features"))),
        ("Computes on", _list(state["backends"])),
        ("Remark", state["remark"]),
        *((f"  {one['name']}", _sees(one)) for one in state.get("installed", [])),
    ]


def _sees(entry: dict[str, Any]) -> str:
    """What an installed build of llama.cpp sees."""
    return "; ".join(filter(None, (*map(describe, entry["devices"]), entry["remark"])))


def _gain(ratios: dict[str, float]) -> str:
    """What a native llama.cpp gains here, as measured."""
    return (
        f"reads prompts {ratios['prompt']:.2f} times as fast as the prebuilt one here, generates "
        f"{ratios['generate']:.2f} times as fast (measured on one thread)"
    )


def _machine_facts(machine: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, memory = machine["cpu"], machine["memory"]
    usable = "" if cpu["usable"] == cpu["threads"] else f", {cpu['usable']} usable here"
    limit = " (the limit of this container)" if memory["limited"] else ""
    facts = [
        ("System", machine["system"]),
        (
            "CPU",
            f"{cpu['model']}, {cpu['architecture']}, {cpu['cores']} cores, "
            f"{cpu['threads']} threads{usable}",
        ),
        ("SIMD", _list(cpu["simd"]) or "none that matters"),
        (
            "Memory",
            f"{format_size(memory['total'])}{limit}, {format_size(memory['available'])} free",
        ),
        ("  is read at", f"{format_size(machine['bandwidth'])}/s" if machine["bandwidth"] else ""),
        ("  swap", format_size(memory["swap"]) if memory["swap"] else ""),
    ]
    for disk in machine["disks"]:
        purpose = f" ({disk['purpose']})" if disk["purpose"] else ""
        facts.append(
            (
                "Disk",
                f"{disk['mount']}: {format_size(disk['free'])} free of "
                f"{format_size(disk['total'])}{purpose}",
            )
        )
    for device in machine["accelerators"]:
        size = f", {format_size(device['memory'])}" if device["memory"] else ""
        driver = f", driver {device['driver']}" if device["driver"] else ""
        api = f", {device['api']}" if device["api"] else ", no driver that a runtime could use"
        facts.append((device["kind"].upper(), f"{device['name']}{api}{size}{driver}"))
    if not machine["accelerators"]:
        facts.append(("GPU, NPU", "none found"))
    return facts


def _list(values: Any) -> str:
    return ", ".join(map(str, values or []))
