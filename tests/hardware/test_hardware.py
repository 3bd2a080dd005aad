"""The probe of this machine, on what other machines print."""

from __future__ import annotations

import json

import pytest

from kanna import hardware
from kanna.hardware import accelerators, cpu, estimate_tps, probe
from kanna.hardware.accelerators import parse_nvidia, parse_rocm, parse_vulkan
from kanna.hardware.cpu import Cpu, parse_cpuinfo

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 17
model name\t: AMD EPYC 9354
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse AVX avx2 fma f16c avx512f avx512_vnni

processor\t: 1
model name\t: AMD EPYC 9354
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: AMD EPYC 9354
physical id\t: 1
core id\t\t: 0
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid asimddp
CPU implementer\t: 0x41

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_cpuinfo_of_x86_and_arm() -> None:
    model, flags, cores = parse_cpuinfo(X86)
    assert (model, cores) == ("AMD EPYC 9354", 2)
    assert {"avx", "avx512_vnni"} <= flags
    model, flags, cores = parse_cpuinfo(ARM)
    assert (model, cores) == ("Raspberry Pi 5 Model B Rev 1.0", 0)
    assert "asimddp" in flags
    assert parse_cpuinfo("") == ("", frozenset(), 0)


def test_simd_is_listed_best_first() -> None:
    found = Cpu(
        model="",
        architecture="",
        flags=frozenset({"avx", "avx2", "avx512f", "sse"}),
        cores=1,
        threads=1,
        usable=1,
    )
    assert found.simd == ["avx512f", "avx2", "avx"]


def test_what_gpu_tools_print() -> None:
    [gpu] = parse_nvidia("NVIDIA H100 80GB HBM3, 81559, 80994, 570.133.20\n\nbroken line\n")
    assert (gpu.name, gpu.memory, gpu.driver) == (
        "NVIDIA H100 80GB HBM3",
        81559 << 20,
        "570.133.20",
    )
    [unknown] = parse_nvidia("GB10, [N/A], [N/A], 580.1")
    assert (unknown.name, unknown.memory) == ("GB10", 0)
    card = {
        "Card Series": "Radeon RX 7900",
        "VRAM Total Memory (B)": "100",
        "VRAM Total Used Memory (B)": "30",
    }
    [gpu] = parse_rocm(json.dumps({"card0": card, "system": {}}))
    assert (gpu.name, gpu.memory, gpu.free) == ("Radeon RX 7900", 100, 70)
    assert parse_rocm("not json") == []
    text = """Devices:
========
GPU0:
\tdeviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
\tdeviceName         = Intel(R) Arc
\tdriverInfo         = Mesa 24
GPU1:
\tdeviceType         = PHYSICAL_DEVICE_TYPE_CPU
\tdeviceName         = llvmpipe
"""
    [gpu] = parse_vulkan(text)
    assert (gpu.name, gpu.api, gpu.driver) == ("Intel(R) Arc", "Vulkan", "Mesa 24")


def test_a_tool_that_is_missing_or_fails_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = accelerators.__wrapped__.__globals__
    assert module["run"]("no-such-tool-anywhere") == ""
    assert module["run"]("false") == ""
    monkeypatch.setitem(
        module, "shutil", type("None_", (), {"which": staticmethod(lambda _: None)})
    )
    for find in (module["_nvidia"], module["_rocm"], module["_vulkan"], module["_opencl"]):
        assert find() == []


def test_this_machine() -> None:
    machine = probe()
    assert machine.cpu.model
    assert 1 <= machine.cpu.cores <= machine.cpu.threads
    assert 1 <= hardware.default_threads() <= machine.cpu.usable <= machine.cpu.threads
    assert 0 < machine.memory.available <= machine.memory.total
    assert 1e8 < machine.bandwidth < 1e13
    assert any("current folder" in d.purpose for d in machine.disks)
    assert all(0 <= d.free <= d.total for d in machine.disks)
    data = machine.to_dict()
    assert json.loads(json.dumps(data))["cpu"]["simd"] == cpu().simd


def test_estimates_follow_the_slower_of_memory_and_arithmetic() -> None:
    slow, fast = (estimate_tps(4e9, per_second=b, threads=4) for b in (20e9, 40e9))
    assert 1.8 < fast / slow < 2.1
    assert estimate_tps(1e9, 1e12, per_second=1e15, threads=1) < 0.02
    assert estimate_tps(0, per_second=1e9) > 0
