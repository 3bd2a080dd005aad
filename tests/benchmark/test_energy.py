"""Energy by programs that print power; their outputs are written as their manuals have them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from kanna.benchmark.energy import EnergyMeter
from kanna.benchmark.power_programs import (
    PROGRAMS,
    NvidiaReader,
    PowerLog,
    PowermetricsReader,
    PowerProgram,
    PowerReader,
    PowerSample,
)

POWERMETRICS = """\
Machine model: Mac14,2
OS version: 23E224

*** Sampled system activity (Mon Nov 30 08:00:00 2026 +0000) (101.53ms elapsed) ***

**** Processor usage ****

E-Cluster Online: 100%
CPU Power: 3100 mW
GPU Power: 1200 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 4300 mW

**** GPU usage ****

GPU HW active frequency: 444 MHz
GPU Power: 1200 mW
"""
INTEL = """\
*** Sampled system activity (Fri Sep  4 17:15:14 2015 +1000) (5009.63ms elapsed) ***

**** Processor usage ****

Intel energy model derived package power (CPUs+GT+SA): 3.76W
"""
NVIDIA = "0, 70.25, 35\n1, 30.75, 0\n"


def samples(reader: PowerReader, text: str, step: float = 0.1) -> list[PowerSample]:
    read = [reader.read(line, at * step) for at, line in enumerate(text.splitlines())]
    return [sample for sample in read if sample is not None]


def test_lines_of_programs_are_read() -> None:
    [mac] = samples(PowermetricsReader(), POWERMETRICS)
    assert mac.watts == pytest.approx(4.3) and mac.end - mac.begin == pytest.approx(0.10153)
    [intel] = samples(PowermetricsReader(), INTEL)
    assert intel.watts == 3.76 and intel.end - intel.begin == pytest.approx(5.00963)
    gpus = samples(NvidiaReader(), NVIDIA * 4)
    assert [(g.watts, g.busy) for g in gpus] == [(101.0, True)] * 2
    assert gpus[0].end == gpus[1].begin
    idle = samples(NvidiaReader(), "0, 9.5, 0\n" * 3)
    assert [g.busy for g in idle] == [False]
    assert not samples(NvidiaReader(), "0, [N/A], [N/A]\n" * 3)
    assert not samples(NvidiaReader(), "No devices were found\n")


def printing(folder: Path, text: str, reader: type, **about: bool) -> PowerProgram:
    """A program that prints a text every 20 ms."""
    script = folder / "prints.py"
    script.write_text(
        "import sys, time\n"
        f"while True:\n    print({text!r}, end='', flush=True)\n    time.sleep(0.02)\n",
        encoding="utf-8",
    )
    return PowerProgram(
        title="a program",
        command=(sys.executable, str(script)),
        reader=reader,
        **{"whole": False, **about},
    )


def counter(folder: Path, microjoules: int) -> None:
    place = folder / "intel-rapl:0"
    place.mkdir(exist_ok=True)
    (place / "name").write_text("package-0\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")


def test_power_is_summed_over_the_time_that_is_measured(tmp_path: Path) -> None:
    program = printing(tmp_path, "0, 50.0, 90\n1, 10.0, 0\n", NvidiaReader)
    meter = EnergyMeter(tmp_path / "none", [program])
    begin = time.monotonic()
    time.sleep(0.5)
    joules, seconds = meter.joules(), time.monotonic() - begin
    assert joules is not None and joules == pytest.approx(60.0 * seconds, rel=0.15)
    assert meter.sources == ("a program",)


def test_an_idle_gpu_tells_nothing_of_the_processors(tmp_path: Path) -> None:
    program = printing(tmp_path, "0, 10.0, 0\n", NvidiaReader)
    meter = EnergyMeter(tmp_path / "none", [program])
    time.sleep(0.2)
    assert meter.joules() is None and meter.sources == ()
    counter(tmp_path, 0)
    meter = EnergyMeter(tmp_path, [program])
    time.sleep(0.2)
    counter(tmp_path, 5_000_000)
    joules = meter.joules()
    assert joules is not None and 6 < joules < 12  # both are counted
    assert meter.sources == ("processors by RAPL", "a program")


def test_too_few_samples_are_no_figure(tmp_path: Path) -> None:
    log = PowerLog(printing(tmp_path, "0, 50.0, 90\n", NvidiaReader))
    now = time.monotonic()
    assert log.joules(now, now + 0.001) is None
    log.close()


def test_what_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    meter = EnergyMeter(tmp_path / "none")
    assert meter.obstacles == ("there is no nvidia-smi", "there is no powermetrics")
    assert meter.joules() is None
    root = PROGRAMS[1]
    assert root.needs_root and root.whole
    (tmp_path / "powermetrics").write_text("#!/bin/sh\n")
    (tmp_path / "powermetrics").chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert root.obstacle == "powermetrics runs as root alone"
