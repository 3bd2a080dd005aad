"""Plan files: ordered rules in JSON, first match wins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from kanna import encodings, methods
from kanna._util.atomic import write_text
from kanna._util.nearest import absent
from kanna.errors import KannaError, NotFoundError, PlanError
from kanna.plan import tuning


class RuleModel(BaseModel):
    """A rule: the tensors it names, and the encoding they get.

    Attributes:
        pattern: A regular expression; the rule holds for names in which it matches anywhere.
        encoding: Name of the encoding.
        method: Name of the method that chooses the values.
        accuracy: accuracy_level of the node in ONNX, 0 for float32 arithmetic or 4 for inputs
            rounded to 8 bits.
    """

    model_config = ConfigDict(extra="forbid")

    pattern: str
    encoding: str
    method: str = "search"
    accuracy: Literal[0, 4] | None = None

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str) -> str:
        return _known(lambda: encodings.get(value).name)

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        return _known(lambda: methods.get(value).name)


class Plan(BaseModel):
    """A plan: `rules` first, then the `preset` or the `encoding` for every tensor no rule names.

    Attributes:
        preset: One of GGUF's.
        activation_codes: Where an ONNX graph with a scale per channel has codes of activations:
            around matrix products, or between all nodes of a graph of fixed shapes.
        tuning: The name of a file beside the plan, see plan/tuning.py.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "custom"
    preset: str | None = None
    encoding: str | None = None
    rules: list[RuleModel] = Field(default_factory=list[RuleModel])
    activation_codes: Literal["products", "all"] | None = None
    tuning: str | None = None
    _folder: Path = PrivateAttr(default_factory=Path)
    _origin: tuple[str, str] | None = PrivateAttr(default=None)

    @classmethod
    def of_encoding(cls, name: str) -> Plan:
        """The plan that gives every matrix one encoding; raises UnsupportedError for an unknown."""
        known = encodings.get(name).name
        plan = cls(name=known, encoding=known)
        plan.origin = ("encoding", name)
        return plan

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, whatever files they are in."""
        return isinstance(other, Plan) and self.model_dump() == other.model_dump()

    @property
    def origin(self) -> tuple[str, str] | None:
        """How the command line names it: `preset`, `encoding` or `plan` and its value.

        None for a plan that has no name there.
        """
        return self._origin

    @origin.setter
    def origin(self, value: tuple[str, str]) -> None:
        self._origin = value

    def with_method(self, method: str) -> Plan:
        """The plan with values of its rules chosen by `method`, those of plain rounding left alone.

        A rule of a preset says which encoding, and leaves to the user how values are chosen.
        """
        rules = [
            r if r.method == "nearest" else r.model_copy(update={"method": method})
            for r in self.rules
        ]
        return self.model_copy(update={"rules": rules})

    @field_validator("tuning")
    @classmethod
    def _tuning(cls, value: str | None) -> str | None:
        if value is not None and (
            value in ("", ".", "..") or Path(value).name != value or "\\" in value
        ):
            raise ValueError(f"{value!r} is not the name of a file beside the plan")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str | None) -> str | None:
        return None if value is None else _known(lambda: encodings.get(value).name)

    def tuned(self) -> tuning.Tuning | None:
        """The tuning the plan names, opened; PlanError when it is not there."""
        return tuning.read(self._folder / self.tuning) if self.tuning else None

    def save(self, path: Path | str) -> None:
        """Write the plan as JSON, which is its origin from then on."""
        write_text(Path(path), self.model_dump_json(indent=2, exclude_none=True) + "\n")
        self._folder, self._origin = Path(path).parent, ("plan", Path(path).name)


def _known(find: Any) -> str:
    try:
        return find()
    except KannaError as error:
        raise ValueError(f"{error.found}; expected {error.expected}") from None


def load(path: Path | str) -> Plan:
    """Read a plan file; PlanError says where it is wrong."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(absent(path), expected="a plan file in JSON")
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PlanError(
            f"{path.name}: {where}: {first['msg']}",
            expected='{"preset": "Q4_K_M", "rules": [{"pattern": "ffn_down", "encoding": "q6_k"}]}',
        ) from None
    plan._folder = path.parent  # pyright: ignore[reportPrivateUsage]
    plan.origin = ("plan", path.name)
    return plan
