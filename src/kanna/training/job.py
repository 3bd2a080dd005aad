"""One training run: its models opened, its data split, and what trainers are given of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanna import __version__, families
from kanna._util.progress import Progress
from kanna.errors import UsageError
from kanna.evaluation.reference import reference_folder
from kanna.hardware.cpu import default_threads
from kanna.sources import Source, open_source
from kanna.tracking import TrackedRun
from kanna.training import causal_model, memory
from kanna.training.checkpoints import Checkpoints
from kanna.training.drafts.phase import DraftPhase
from kanna.training.examples import Examples
from kanna.training.gate_file import GateFile
from kanna.training.packing import Padding
from kanna.training.planned_values import StoredTypes
from kanna.training.request import AdaptRequest
from kanna.training.run import TrainingRun
from kanna.training.settings import MLX, TORCH, TrainingSettings
from kanna.training.splitting import Split
from kanna.training.teacher import TeacherModel
from kanna.training.tokens import ChatTokenizer

_LIBRARIES = {
    TORCH: ("torch", "transformers", "peft", "trl"),
    MLX: ("mlx", "mlx-lm", "transformers"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterJob:
    """One run, with everything it needs."""

    source: Source
    folder: Path
    read: Examples[Any]
    split: Split[Any]
    settings: TrainingSettings
    max_length: int
    samples: int
    threads: int
    tracked: TrackedRun
    teacher: TeacherModel | None = None
    types: StoredTypes | None = None
    gate_file: GateFile | None = None
    draft: DraftPhase | None = None

    @classmethod
    def of(
        cls,
        source: str | Path | Source,
        request: AdaptRequest,
        read: Examples[Any],
        parts: Split[Any],
        tracked: TrackedRun,
        progress: Progress,
    ) -> AdapterJob:
        """The run that was asked for, with its models opened.

        Args:
            source: The base model.
            request: What was asked for.
            read: The data.
            parts: The same, split.
            tracked: Is told of the run.
            progress: Where progress is reported.
        """
        offline = request.offline
        opened = _opened(source, request, progress)
        plan = request.for_plan
        types = StoredTypes.of(opened, str(plan)) if plan is not None else None
        settings = replace(request.settings, device=_device(request.device, request.settings))
        memory.require_all_weights(opened, settings)
        folder = reference_folder(opened, offline=offline, progress=progress)
        gate = GateFile(source=opened, folder=folder, method=settings.method, types=types)
        threads = request.threads or default_threads()
        teacher, draft = None, None
        if (given := request.teacher) is not None:
            teaching = open_source(given, offline=offline, progress=progress)
            teacher = TeacherModel(source=teaching, device=settings.device)
        if request.draft is not None:
            draft = DraftPhase.of(
                request.draft,
                folder,
                settings,
                threads=threads,
                retrains=request.retrain_draft,
                offline=offline,
                tell=progress,
            )
        return cls(
            source=opened,
            folder=folder,
            read=read,
            split=parts,
            settings=settings,
            max_length=request.max_length,
            samples=request.samples,
            threads=threads,
            tracked=tracked,
            teacher=teacher,
            types=types,
            gate_file=gate if request.verify else None,
            draft=draft,
        )

    def unfinished(self, out: Path) -> Path:
        """Where checkpoints lie: a name that another base, data or setting changes."""
        libraries = [version(name) for name in _LIBRARIES[self.settings.backend]]
        settings = asdict(self.settings) | {"minutes": None, "max_length": self.max_length}
        data = [
            [one.to_json() for one in part] for part in (self.split.training, self.split.held_out)
        ]
        key = [__version__, libraries, settings, data, self.source.hashes()]
        if self.teacher is not None:
            key.append(self.teacher.source.hashes())
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return out.absolute().parent / f".{out.name[:60]}.unfinished-{digest[:16]}"

    def tokenizer(self) -> tuple[Any, int]:
        """The tokenizer of transformers, and the tokens that the model reads at most."""
        import transformers

        tokenizer = causal_model.load_tokenizer(self.folder)
        with causal_model.loading(self.folder):
            config = transformers.AutoConfig.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer, int(getattr(config, "max_position_embeddings", 0) or self.max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a trainer, which has written the adapter.

    Attributes:
        run: The run.
        changed: What the adapter changed, for the result.
        calls: Valid calls in answers to held-out prompts with tools; None: nothing was asked.
    """

    run: TrainingRun
    changed: dict[str, Any]
    calls: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What any trainer needs, and the folder that it writes the adapter into.

    Attributes:
        folder: That folder.
        tokenizer: That of transformers.
        chats: Renders and cuts examples.
        training: What is learned, in tokens.
        held_out: What is not.
        padding: What packing of the former would save; None where nothing can be packed.
        checkpoints: Where a run of the same goes on from.
        progress: Where progress is reported.
    """

    folder: Path
    tokenizer: Any
    chats: ChatTokenizer
    training: Sequence[Any]
    held_out: Sequence[Any]
    padding: Padding | None
    checkpoints: Checkpoints
    progress: Progress


def _opened(source: str | Path | Source, request: AdaptRequest, progress: Progress) -> Source:
    """The base model, refused before its weights are fetched where no runtime could use it."""
    opened = open_source(
        source,
        revision=request.revision,
        offline=request.offline,
        preflight=_preflight,
        progress=progress,
    )
    _preflight(opened)
    return opened


def _preflight(source: Source) -> None:
    """Refuse a model whose adapter no runtime could use."""
    families.require_runtime(source.config)


def _device(given: str | None, settings: TrainingSettings) -> str:
    if settings.base_bits or settings.backend == MLX:
        return "cpu"
    import torch

    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if given is not None and given not in here:
        raise UsageError(f"no device {given!r} here", expected=", ".join(here))
    return given or here[-1]
