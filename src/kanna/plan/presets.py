"""What a preset is: a named plan of one format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kanna.errors import UnknownPresetError
from kanna.model import Model
from kanna.plan.file import Plan, RuleModel

MakePlan = Callable[[Model, bool, str], Plan]
"""From a model, whether importances of columns are known, and the type of floats, to a plan."""


def for_any_model(_: Model) -> bool:
    """A preset that can be meant for any model."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named plan of one format.

    Attributes:
        summary: What it is for, in one line.
        make: Makes its plan, see `plan`.
        special: Whether it suits only networks trained for it.
        derived: Whether the artefact is made as a whole, so that no plan of encodings gives it.
        suits: Whether it differs from all other presets for a model.
        facts: What else is to be known of it, by name.
        where: The module and the table it stands in.
    """

    name: str
    summary: str
    make: MakePlan
    special: bool = False
    derived: bool = False
    suits: Callable[[Model], bool] = for_any_model
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    where: str = ""

    def plan(self, model: Model, *, weighted: bool = False, float_type: str = "bf16") -> Plan:
        """The preset as a plan for `model`.

        Args:
            model: The model the plan is for.
            weighted: Whether the importance of columns was measured.
            float_type: Of scales and of what is not quantized, where the format has a choice.

        Raises:
            PlanError: The preset cannot be meant for this model.
        """
        plan = self.make(model, weighted, float_type)
        plan.origin = ("preset", self.name)
        return plan


def unknown_preset(name: str, known: Iterable[str], format: str = "") -> UnknownPresetError:
    """The error for a preset that does not exist.

    Args:
        name: What was asked for.
        known: The presets there are.
        format: Whose presets they are, as before their colon; "" for GGUF.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), 3)
    prefix = f"{format}:" if format else ""
    return UnknownPresetError(
        f"no preset named {prefix + name!r}",
        expected=", ".join(prefix + n for n in close or known),
        todo="`kanna fit SRC` lists them all",
    )


def rule_for(tensor: str, encoding: str, method: str = "search") -> RuleModel:
    """The rule that names one tensor; `encoding` must be a known one."""
    return RuleModel.model_construct(
        pattern=f"^{re.escape(tensor)}$", encoding=encoding, method=method, accuracy=None
    )
