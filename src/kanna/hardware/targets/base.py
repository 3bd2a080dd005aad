"""What is known of a device, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kanna.errors import UnsupportedError
from kanna.hardware.figures import Figure
from kanna.hardware.operators import OperatorTable


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBackend:
    """A processor of a device, as llama.cpp reaches it, whose operators and speeds it says.

    Attributes:
        name: Such as `cpu` or `vulkan`.
        operators: What it multiplies; None where no runtime of kanna runs on it.
        formats: Names of the formats that it runs.
        unavailable: Why there are no `operators`.
        instead: What to do where there are none.
        efficiency: Share of the bandwidth that generation reaches; None: not known.
        error: Relative error of predicted speeds.
        gigaflops: Billions of floating-point operations per second that reading a prompt reaches;
            None: not known.
        memory: Bytes that it can use, where that is less than the device's.
        bandwidth: Bytes per second, where its memory is its own.
        alignment: Rows of quantized matrices must be a multiple of so many values.
    """

    name: str
    operators: OperatorTable | None
    formats: tuple[str, ...] = ("gguf",)
    unavailable: str = ""
    instead: str = ""
    efficiency: Figure[float] | None = None
    error: Figure[float] | None = None
    gigaflops: Figure[float] | None = None
    memory: Figure[int] | None = None
    bandwidth: Figure[int] | None = None
    alignment: Figure[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A device with one size of memory.

    Attributes:
        name: As `--target` takes it.
        profile: Name of the profile, which has a device per size of memory.
        title: As people call the device.
        total: Bytes of memory.
        available: Bytes that a model may take.
        bandwidth: Bytes per second at which memory is read.
        cores: Of the processor.
        context: Tokens that people use on such a device.
        backends: By name, the preferred one first.
    """

    name: str
    profile: str
    title: str
    total: Figure[int]
    available: Figure[int]
    bandwidth: Figure[int]
    cores: Figure[int]
    context: Figure[int]
    backends: Mapping[str, DeviceBackend] = field(default_factory=dict[str, DeviceBackend])

    def figures(self) -> dict[str, Figure[Any]]:
        """Every figure of the profile by its place in it."""
        named: dict[str, Figure[Any]] = {
            name: getattr(self, name)
            for name in ("total", "available", "bandwidth", "cores", "context")
        }
        places = ("efficiency", "error", "gigaflops", "memory", "bandwidth", "alignment")
        for backend in self.backends.values():
            for place in places:
                if (figure := getattr(backend, place)) is not None:
                    named[f"{backend.name}.{place}"] = figure
        return named


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetChoice:
    """A device and the backend of it that is used: what `--target` names.

    Attributes:
        target: The device.
        backend: Its processor.
        format: Name of the format whose runtime multiplies there.
    """

    target: DeviceProfile
    backend: DeviceBackend
    format: str = "gguf"

    @property
    def name(self) -> str:
        """`raspberry-pi-5:cpu`."""
        return f"{self.target.name}:{self.backend.name}"

    @property
    def operators(self) -> OperatorTable:
        """What the backend multiplies. Raises UnsupportedError where nothing is known."""
        if self.backend.operators is None:
            raise UnsupportedError(
                f"{self.name}: {self.backend.unavailable}",
                expected=" or ".join(
                    f"{self.target.profile}:{one.name}"
                    for one in self.target.backends.values()
                    if one.operators
                ),
                todo=self.backend.instead,
            )
        return self.backend.operators

    @property
    def is_profiled(self) -> bool:
        """Whether the profile's operators and speeds, which are llama.cpp's, are of the format."""
        return self.format in self.operators.formats

    @property
    def memory(self) -> int:
        """Bytes that weights, cache and buffers may take."""
        own = self.backend.memory
        return self.target.available.value if own is None else own.value

    @property
    def bandwidth(self) -> float:
        """Bytes per second at which the backend reads weights."""
        return float((self.backend.bandwidth or self.target.bandwidth).value)

    @property
    def context(self) -> int:
        """Tokens when none are named."""
        return self.target.context.value

    def to_dict(self) -> dict[str, Any]:
        """What results say of it; no encodings where nothing says that others are refused."""
        table, profiled = self.operators, self.is_profiled
        source = f"{table.name} of llama.cpp {table.version}, {table.date}"
        return {
            "name": self.name,
            "title": self.target.title,
            "backend": self.backend.name,
            "format": self.format,
            "memory": self.memory,
            "bandwidth": self.bandwidth,
            "encodings": sorted(table.matrices) if profiled else [],
            "cache": sorted(table.cache) if profiled else [],
            "operators": source if profiled else "",
        }
