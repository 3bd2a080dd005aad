"""What a loaded llama.cpp can compute on: the devices in ggml's registry of backends."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from kanna.errors import MissingError
from kanna.libllama import functions
from kanna.libllama.interface import Library

_CPU, _GPU, _INTEGRATED, _ACCELERATOR = range(4)
_KINDS = {_CPU: "cpu", _GPU: "gpu", _INTEGRATED: "igpu", _ACCELERATOR: "accelerator"}

REGISTERED = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "vulkan": "Vulkan",
    "metal": "MTL",
    "opencl": "OpenCL",
    "sycl": "SYCL",
    "rocm": "ROCm",
}
"""What ggml's registry calls each backend that kanna builds."""

CHOSEN_BY = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
    "opencl": ("GGML_OPENCL_PLATFORM", "GGML_OPENCL_DEVICE", "OCL_ICD_VENDORS"),
    "sycl": ("ONEAPI_DEVICE_SELECTOR",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
}
"""Variables of the environment by which ggml, drivers and their loaders choose devices."""
LOST = re.compile(
    r"device\s?(?:was |is )?lost|device\s?memory|device not available|(?:CUDA|HIP|SYCL) error",
    re.IGNORECASE,
)
"""What drivers and ggml's backends say last where a device is gone while it computes."""
WHEN_LOST = (
    "look at the driver's log: the device was lost, has no memory left, or its driver failed; a "
    "smaller model tells which, and KANNA_LLAMACPP=auto computes on the CPU"
)
"""What to do then."""
_SOFTWARE = {
    "vulkan": "a software renderer counts only where GGML_VK_VISIBLE_DEVICES=0 names it",
    "opencl": "ggml takes the GPUs that it knows alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that ggml offers.

    Attributes:
        name: ggml's, which buffers are named by: `CUDA0`.
        description: What its driver calls it.
        backend: Whose it is, as ggml registers it: `CUDA`.
        kind: `cpu`, `gpu`, `igpu` or `accelerator`.
        memory: Bytes, 0 where it does not say.
        free: Of those, how many are free.
    """

    name: str
    description: str
    backend: str
    kind: str
    memory: int = 0
    free: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The device as JSON has it."""
        return asdict(self)


@cache
def _registry(library: Library) -> Any:
    """The library with ggml's registry declared; None where it does not export it."""
    try:
        functions.declare_registry(library.functions)
    except AttributeError:
        return None
    return library.functions


def registry(library: Library) -> Any:
    """Ggml's registry of backends in a library; MissingError where it does not export it.

    Args:
        library: A loaded llama.cpp.
    """
    declared = _registry(library)
    if declared is None:
        raise MissingError(
            f"{library.version} does not export ggml's registry of backends",
            todo=library.build.again,
        )
    return declared


@cache
def load_backends(library: Library) -> None:
    """Load the backends that lie beside an installed llama.cpp, once; packages do it themselves.

    Args:
        library: A loaded llama.cpp, whose log is heard already.
    """
    place = library.build.place
    if place is not None:
        registry(library).ggml_backend_load_all_from_path(str(place).encode())


def devices(library: Library) -> list[Device]:
    """Every device of a llama.cpp whose backends are loaded; none where it does not say.

    Args:
        library: A loaded llama.cpp.
    """
    ggml = _registry(library)
    if ggml is None:
        return []
    here: list[Device] = []
    for number in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(number)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        owner = ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(handle))
        here.append(
            Device(
                name=_text(ggml.ggml_backend_dev_name(handle)),
                description=_text(ggml.ggml_backend_dev_description(handle)),
                backend=_text(owner),
                kind=_KINDS.get(ggml.ggml_backend_dev_type(handle), "gpu"),
                memory=total.value,
                free=free.value,
            )
        )
    return here


def of_backend(library: Library, backend: str) -> list[Device]:
    """The devices of one backend.

    Args:
        library: A loaded llama.cpp.
        backend: As kanna names it.
    """
    registered = REGISTERED[backend].lower()
    return [d for d in devices(library) if d.backend.lower() == registered]


def require(library: Library, heard: str = "") -> list[Device]:
    """The devices that an installed llama.cpp was built for; MissingError, with why, without one.

    Args:
        library: A loaded llama.cpp.
        heard: What its log said while its backends were loaded.
    """
    backend = library.build.backend
    here = of_backend(library, backend)
    if here or backend == "cpu":
        return here
    raise MissingError(
        f"the runtime {library.build.name} is in use, and {backend} has no device here: "
        f"{why_none(library, heard)}",
        expected=f"a device of {backend} with its driver",
        todo="install its driver; kanna runtime use auto, or KANNA_LLAMACPP=auto, computes on the "
        "CPU",
    )


def why_none(library: Library, heard: str = "") -> str:
    """Why the backend of an installed llama.cpp has no device.

    Args:
        library: A loaded llama.cpp.
        heard: What its log said while its backends were loaded.
    """
    build = library.build
    assert build.place is not None
    names = [n for n in (build.installed.files if build.installed else {}) if _is_backend(n, build)]
    for name in names:
        try:
            ctypes.CDLL(str(build.place / name))
        except OSError as error:
            return f"its library does not load: {error}"
    settings = [name for name in CHOSEN_BY.get(build.backend, ()) if name in os.environ]
    if settings:
        asked = ", ".join(f"{name}={os.environ[name]}" for name in settings)
        return f"{heard or 'nothing was listed'}; what may be listed is set by {asked}"
    reason = heard or "no driver of it is here, or the driver lists none"
    return "; ".join(filter(None, (reason, _SOFTWARE.get(build.backend))))


def _is_backend(name: str, build: Any) -> bool:
    stem = {"rocm": "hip"}.get(build.backend, build.backend)
    return f"ggml-{stem}." in name


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""
