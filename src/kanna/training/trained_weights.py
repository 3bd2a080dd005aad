"""What of a model is trained: changes beside its weights, by PEFT, or the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kanna.training import causal_model
from kanna.training.settings import FULL, TrainingSettings


class TrainedWeights(Protocol):
    """What of a model is trained.

    Attributes:
        beside: Whether the base stays, beneath what is trained.
    """

    beside: bool

    def lora(self, settings: TrainingSettings) -> Any:
        """PEFT's configuration; None: nothing is put beside the weights."""
        ...

    def state(self, model: Any) -> dict[str, Any]:
        """The values of a model that are trained, a copy."""
        ...

    def put(self, model: Any, state: dict[str, Any]) -> None:
        """Give a model such values again."""
        ...

    def restore(self, model: Any) -> None:
        """Make the model that was to be trained what it was before."""
        ...


@dataclass(frozen=True, slots=True)
class LowRankChanges:
    """Thin matrices beside the weights: LoRA and its kin."""

    beside = True

    def lora(self, settings: TrainingSettings) -> Any:
        """PEFT's configuration."""
        import peft

        return peft.LoraConfig(**settings.lora())

    def state(self, model: Any) -> dict[str, Any]:
        """Values of the adapter of a model of PEFT, a copy."""
        import peft

        state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: value.detach().clone().contiguous() for name, value in state.items()}

    def put(self, model: Any, state: dict[str, Any]) -> None:
        """Give the adapter of a model of PEFT such values again."""
        import peft

        peft.set_peft_model_state_dict(model, state)

    def restore(self, model: Any) -> None:
        """Give a base its own layers again, in the place of those that PEFT put around them."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                model.set_submodule(name, module.get_base_layer())


@dataclass(frozen=True, slots=True)
class AllWeights:
    """Every weight of a model.

    Attributes:
        folder: The base, a folder of Hugging Face.
    """

    folder: Path
    beside = False

    def lora(self, settings: TrainingSettings) -> Any:
        """None: nothing is put beside the weights."""
        return None

    def state(self, model: Any) -> dict[str, Any]:
        """All weights, a copy; a head that is the embedding is there once."""
        named = model.named_parameters()
        return {name: value.detach().clone().contiguous() for name, value in named}

    def put(self, model: Any, state: dict[str, Any]) -> None:
        """Give a model such weights again."""
        import torch

        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(state[name])

    def restore(self, model: Any) -> None:
        """Read the weights of the base again: memory holds no second copy of them meanwhile."""
        base = causal_model.load(self.folder, "cpu")
        self.put(model, dict(base.named_parameters()))


def of(settings: TrainingSettings, folder: Path) -> TrainedWeights:
    """What is trained of the model in a folder.

    Args:
        settings: How it is trained.
        folder: The base, a folder of Hugging Face.
    """
    return AllWeights(folder) if settings.method == FULL else LowRankChanges()
