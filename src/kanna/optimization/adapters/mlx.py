"""Optimization of folders for mlx-lm, within a budget of weight files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanna.conversion import Guidance
from kanna.conversion.mlx import MLXConversion, MLXSizes
from kanna.encodings.grouped.affine import NUMBERS
from kanna.families import load_model
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.constraints import Constraints
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.tuning.folder import FolderSubject
from kanna.plan import Plan
from kanna.plan import mlx as presets
from kanna.sources import open_source


class MLXAdapter(Adapter):
    """MLX folders: grouped encodings, scales and norms that can be tuned."""

    format = "mlx"
    supports_tuning = True

    @property
    def full(self) -> str:
        """The type of scales and of what is not quantized."""
        return presets.number_for(self.workspace.model)

    def candidates(self) -> Sequence[str]:
        """Every width and group, and floats."""
        return presets.candidates(self.workspace.model)

    def constraints(self, request: OptimizeRequest) -> Constraints:
        """As the user has them; `affine4g64` means the model's own type."""
        return Constraints(
            keep=request.keep,
            exclude=[self._with_number(e) for e in request.exclude],
            rules={pattern: self._with_number(e) for pattern, e in request.rules.items()},
            full=self.full,
            vocabulary=self.candidates(),
        )

    def _with_number(self, name: str) -> str:
        if self.full == "bf16" or "_" in name or not name.startswith("affine"):
            return name
        return f"{name}_{self.full}"

    def notes(self) -> list[str]:
        """That float32 becomes float16, where it does."""
        if self.full == presets.float_type(self.workspace.model):
            return []
        return [
            "the source is in float32: scales, and what is not quantized, are written in float16"
        ]

    def baselines(self) -> Sequence[str]:
        """Every preset that quantizes; `exact` has nothing to choose."""
        return [name for name in self.presets() if name not in ("exact", *NUMBERS)]

    def sizes_with(self, guidance: Guidance) -> MLXSizes:
        """Weight files, with scales in the number type of this source."""
        workspace = self.workspace
        return MLXSizes(workspace.source, workspace.model, guidance, float_type=self.full)

    def conversion(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> MLXConversion:
        """The conversion, with scales in the number type of this source."""
        workspace, request = self.workspace, self.request(plan, preset)
        return MLXConversion(workspace.source, workspace.model, out, request, self.full)

    def tuning_subject(
        self, plan: Path, artefact: Path, out: Path, windows: HeldOutWindows
    ) -> FolderSubject:
        """The folder of `plan`, norms included."""

        def write(tuned: Path) -> None:
            work = self.conversion(out, plan=tuned)
            work.carry(artefact)
            work.write(self.workspace.context.running())

        return FolderSubject(
            artefact=artefact,
            out=out,
            norms=True,
            reader=lambda path: load_model(open_source(path)),
            writer=write,
        )


ADAPTER = MLXAdapter
