"""GPUs and neural processors, by the tools and device files of their drivers; nothing is loaded."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kanna.hardware.cpu import run

# PCI vendors that make GPUs or accelerators for language models.
_VENDORS = {
    "0x10de": "NVIDIA",
    "0x1002": "AMD",
    "0x8086": "Intel",
    "0x1da3": "Habana",
    "0x1e60": "Hailo",
    "0x1ed2": "FuriosaAI",
    "0x1e52": "Tenstorrent",
    "0x17cb": "Qualcomm",
    "0x5143": "Qualcomm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A GPU or a neural processor.

    Attributes:
        kind: `gpu` or `npu`.
        api: How a runtime reaches it.
        memory: Bytes of its own, 0 when unknown or shared.
    """

    kind: str
    name: str
    api: str
    memory: int = 0
    free: int = 0
    driver: str = ""


def _nvidia() -> list[Accelerator]:
    if not shutil.which("nvidia-smi"):
        return []
    return parse_nvidia(
        run(
            "nvidia-smi",
            "--query-gpu=name,memory.total,memory.free,driver_version",
            "--format=csv,noheader,nounits",
        )
    )


def parse_nvidia(text: str) -> list[Accelerator]:
    """`NVIDIA H100, 81559, 80000, 570.1` per line, sizes in MiB."""
    devices: list[Accelerator] = []
    for line in text.splitlines():
        parts = [p.strip() for p in line.rsplit(",", 3)]
        if len(parts) == 4:
            total, free = (int(p) << 20 if p.isdigit() else 0 for p in parts[1:3])
            devices.append(
                Accelerator(
                    kind="gpu", name=parts[0], api="CUDA", memory=total, free=free, driver=parts[3]
                )
            )
    return devices


def _rocm() -> list[Accelerator]:
    if not shutil.which("rocm-smi"):
        return []
    return parse_rocm(run("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"))


def parse_rocm(text: str) -> list[Accelerator]:
    """The JSON of rocm-smi: one object per card."""
    try:
        cards: dict[str, dict[str, Any]] = json.loads(text)
    except ValueError:
        return []
    devices: list[Accelerator] = []
    for card, facts in sorted(cards.items()):
        if not card.startswith("card"):
            continue
        total = int(facts.get("VRAM Total Memory (B)", 0) or 0)
        used = int(facts.get("VRAM Total Used Memory (B)", 0) or 0)
        titles = ("Card Series", "Card series", "Card Model", "Card model")
        name = next((facts[t] for t in titles if facts.get(t)), card)
        devices.append(
            Accelerator(
                kind="gpu", name=str(name), api="ROCm", memory=total, free=max(0, total - used)
            )
        )
    return devices


def _metal() -> list[Accelerator]:
    if sys.platform != "darwin":
        return []
    try:
        screens = json.loads(run("system_profiler", "SPDisplaysDataType", "-json"))[
            "SPDisplaysDataType"
        ]
    except (ValueError, KeyError):
        screens = []
    devices = [
        Accelerator(kind="gpu", name=s.get("sppci_model") or s.get("_name", "GPU"), api="Metal")
        for s in screens
        if "metal" in json.dumps(s).lower()
    ]
    if platform.machine() == "arm64":
        devices.append(Accelerator(kind="npu", name="Apple Neural Engine", api="Core ML"))
    return devices


def _vulkan() -> list[Accelerator]:
    if not shutil.which("vulkaninfo"):
        return []
    return parse_vulkan(run("vulkaninfo", "--summary"))


def parse_vulkan(text: str) -> list[Accelerator]:
    """Devices of `vulkaninfo --summary`; software renderers are left out."""
    devices: list[Accelerator] = []
    for block in re.split(r"(?m)^GPU\d+:", text)[1:]:
        facts = dict(re.findall(r"(?m)^\s*(\w+)\s*=\s*(.+?)\s*$", block))
        if "CPU" not in facts.get("deviceType", "") and facts.get("deviceName"):
            driver = facts.get("driverInfo", "")
            devices.append(
                Accelerator(kind="gpu", name=facts["deviceName"], api="Vulkan", driver=driver)
            )
    return devices


def _opencl() -> list[Accelerator]:
    if not shutil.which("clinfo"):
        return []
    names = re.findall(r"(?m)^\s*Device #\d+:\s*(.+?)\s*$", run("clinfo", "-l"))
    return [Accelerator(kind="gpu", name=n, api="OpenCL") for n in names if "cpu" not in n.lower()]


def _pci() -> list[Accelerator]:
    """Devices that Linux sees, driver or not: what could be used with the right installation."""
    devices: list[Accelerator] = []
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        try:
            kind = int((device / "class").read_text(), 16) >> 8
            vendor = _VENDORS.get((device / "vendor").read_text().strip())
        except (OSError, ValueError):
            continue
        # 0x03xx are displays, 0x1200 are processing accelerators.
        if vendor and (kind >> 8 == 0x03 or kind == 0x1200):
            driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
            gpu = kind >> 8 == 0x03
            name = f"{vendor} {'graphics' if gpu else 'accelerator'} ({device.name})"
            devices.append(
                Accelerator(kind="gpu" if gpu else "npu", name=name, api="", driver=driver)
            )
    return devices


def _npu() -> list[Accelerator]:
    """Neural processors by the device files of their drivers."""
    drivers = {
        "intel_vpu": ("Intel NPU", "OpenVINO"),
        "amdxdna": ("AMD Ryzen AI NPU", "Ryzen AI"),
        "rknpu": ("Rockchip NPU", "RKNN"),
        "rocket": ("Rockchip NPU", "Teflon"),
        "hailo": ("Hailo", "HailoRT"),
        "qaic": ("Qualcomm Cloud AI 100", "QAIC"),
    }
    devices: list[Accelerator] = []
    for device in sorted(Path("/sys/class/accel").glob("accel*")):
        driver = (device / "device" / "driver").resolve().name
        name, api = drivers.get(driver, (driver or device.name, ""))
        devices.append(Accelerator(kind="npu", name=name, api=api, driver=driver))
    for pattern, name, api in (
        ("/dev/hailo*", "Hailo", "HailoRT"),
        ("/dev/apex_*", "Google Coral Edge TPU", "Edge TPU"),
        ("/dev/rknpu*", "Rockchip NPU", "RKNN"),
        ("/dev/nvhost-nvdla*", "NVIDIA DLA", "TensorRT"),
    ):
        if any(Path("/dev").glob(pattern.removeprefix("/dev/"))):
            devices.append(Accelerator(kind="npu", name=name, api=api))
    model = Path("/proc/device-tree/model")
    if (
        model.exists()
        and not devices
        and "Jetson" in (board := model.read_text(errors="replace").strip("\0"))
    ):
        devices.append(Accelerator(kind="gpu", name=board, api="CUDA"))
    return devices


_PROBES: tuple[Callable[[], list[Accelerator]], ...] = (
    _nvidia,
    _rocm,
    _metal,
    _vulkan,
    _opencl,
    _npu,
)


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Every accelerator, the same card once per API.

    PCI devices no tool speaks for come last, without an API.
    """
    devices = [a for probe in _PROBES for a in probe()]
    gpus = sum(a.kind == "gpu" for a in devices)
    if gpus == 0:
        devices += [a for a in _pci() if a.kind == "gpu"]
    if not any(a.kind == "npu" for a in devices):
        devices += [a for a in _pci() if a.kind == "npu"]
    return tuple(devices)


@cache
def loaders() -> dict[str, bool]:
    """Whether the system library of each API is installed, which a runtime built for it needs."""
    names = {
        "CUDA": "cuda",
        "ROCm": "amdhip64",
        "Vulkan": "vulkan",
        "OpenCL": "OpenCL",
        "Metal": "Metal",
    }
    installed = {api: ctypes.util.find_library(name) is not None for api, name in names.items()}
    if os.name == "nt":
        root = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
        for api, dll in {
            "CUDA": "nvcuda.dll",
            "Vulkan": "vulkan-1.dll",
            "OpenCL": "OpenCL.dll",
        }.items():
            installed[api] = installed[api] or (root / dll).exists()
    return installed
