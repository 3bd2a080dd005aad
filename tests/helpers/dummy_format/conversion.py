"""How sources become folders of the format."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers.dummy_format.container import FORMAT, MARKER, WEIGHTS
from kanna import families, provenance
from kanna._util.peak_memory import Peak
from kanna.conversion.base import (
    ConversionRequest,
    Converter,
    ConvertResult,
    SizedPlan,
    WriteOptions,
    described,
    folder_written,
    get_preset,
)
from kanna.conversion.guidance import Guidance, read_guidance
from kanna.conversion.hf_rows import over
from kanna.formats.safetensors import check_folder
from kanna.formats.stream import File, WriteResult, fill
from kanna.model import Model, num_rows
from kanna.plan import Plan, TensorPlan, resolve
from kanna.sources import Source


class DummySizes:
    """Bytes of the weight files."""

    def __init__(self, source: Source, model: Model, guidance: Guidance) -> None:
        self.model, self.guidance = model, guidance
        self.names = families.hf_names(model)
        self.config, self.tensors, self.files = families.to_hf(model)

    def preset(self, name: str) -> Plan:
        """The plan of a preset."""
        return get_preset(FORMAT.presets, name, FORMAT.name).plan(self.model)

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan over tensors under the names of Hugging Face."""
        resolved = resolve(
            self.model,
            plan=plan,
            weights=self.guidance.weights,
            second_moments=self.guidance.second_moments,
            method=self.guidance.method,
        )
        entries: list[TensorPlan] = []
        for entry in resolved.entries:
            if (name := self.names.get(entry.name)) is not None:
                entries.append(replace(over(self.model, entry, self.tensors[name]), name=name))
        total = sum(len(header(entry)) + entry.nbytes for entry in entries)
        return SizedPlan(resolved=replace(resolved, entries=entries), file_bytes=total)

    def of(self, plan: Plan) -> int:
        """Bytes of the weight files of a plan."""
        return self.sized(plan).file_bytes


def header(entry: TensorPlan) -> bytes:
    """The header of the .npy file of a tensor: rows of bytes."""
    rows = num_rows(entry.tensor)
    about = {"descr": "|u1", "fortran_order": False, "shape": (rows, entry.nbytes // rows)}
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue()


class DummyConversion:
    """A conversion to one folder."""

    def __init__(self, source: Source, out: Path | None, request: ConversionRequest) -> None:
        self.source, self.model = source, families.load_model(source)
        self.out = out or Path(f"{source.name}-dummy")
        guidance = read_guidance(
            source, self.model, statistics=request.statistics, method=request.method
        )
        self.sizes = DummySizes(source, self.model, guidance)
        plan = request.as_plan(self.sizes.preset, FORMAT.default_preset)
        self.sized = self.sizes.sized(plan)
        chosen = dict([plan.origin]) if plan.origin else {}
        self.command = provenance.command(
            source, {"format": FORMAT.name, **chosen, **guidance.options}
        )

    def describe(self) -> ConvertResult:
        """What would be written."""
        return described(self.sized, paths=[self.out], command=self.command, notes=self.model.notes)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when it cannot be written."""
        check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder, its marker last."""
        started, peak = time.perf_counter(), Peak()
        (self.out / WEIGHTS).mkdir(parents=True, exist_ok=True)
        fill(
            [
                File(
                    path=self.out / WEIGHTS / f"{entry.name}.npy",
                    header=header(entry),
                    offsets=[len(header(entry))],
                    tensors=[entry],
                    total_bytes=len(header(entry)) + entry.nbytes,
                )
                for entry in self.sized.entries
            ],
            threads=options.threads,
            progress=options.progress,
            nonfinite=options.nonfinite,
            stage="write",
        )
        keys = provenance.keys(
            self.model,
            self.source,
            self.sized.resolved,
            hashes=self.source.hashes(),
            command=self.command,
        )
        own = {key: meta.value for key, meta in keys.items() if key.startswith("kanna.")}
        index = {
            e.name: {"encoding": e.encoding.name, "shape": list(e.tensor.shape)}
            for e in self.sized.entries
        }
        texts = {"config.json": self.sizes.config, provenance.FILE: own, MARKER: index}
        files = self.sizes.files | {name: json.dumps(v).encode() for name, v in texts.items()}
        for name, data in files.items():
            (self.out / name).write_bytes(data)
        return folder_written(self.out, started, peak)


CONVERSION = Converter(
    summary="Conversion to a folder of .npy files",
    takes=("preset", "encoding", "plan", "statistics", "method"),
    begin=DummyConversion,
    sizes=DummySizes,
)
