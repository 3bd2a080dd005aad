"""What the user demands of some tensors: left as they are, never in an encoding, always in one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kanna import encodings
from kanna.errors import UsageError
from kanna.model import Model, columns
from kanna.optimization.measure import CANDIDATES, matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Which encodings each matrix may have.

    Attributes:
        keep: Patterns of matrices that stay in `full`.
        exclude: Encodings not to be used.
        rules: Pattern → the encoding that matrices of this name must get; before the other two.
        full: The encoding that `keep` means.
        vocabulary: All encodings that a rule may name.
        admits: Whether the backend of the target multiplies a tensor in an encoding; None: there
            is no target.
        target: Its name.
    """

    keep: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rules: Mapping[str, str] = field(default_factory=dict[str, str])
    full: str = "f16"
    vocabulary: Sequence[str] = CANDIDATES
    admits: Callable[[str, str], bool] | None = None
    target: str = ""

    def check(self, model: Model) -> None:
        """Check every pattern and encoding against the model.

        Raises:
            UsageError: A pattern names no matrix, or an encoding does not fit what it names.
            UnsupportedError: There is no such encoding.
        """
        for name in self.exclude:
            encodings.get(name)
        for pattern, wanted in [*((p, self.full) for p in self.keep), *self.rules.items()]:
            encoding = encodings.get(wanted)
            if encoding.name not in self.vocabulary:
                raise UsageError(
                    f"the rule {pattern}={wanted}", expected=f"one of {', '.join(self.vocabulary)}"
                )
            try:
                names = [name for name in matrices(model) if re.search(pattern, name)]
            except re.error as error:
                raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
            if not names:
                raise UsageError(
                    f"the pattern {pattern!r} names no matrix", todo="`kanna inspect SRC --tensors`"
                )
            for name in names:
                if self.admits is not None and not self.admits(name, encoding.name):
                    raise UsageError(
                        f"{self.target} does not multiply {name} in {wanted}, which {pattern!r} "
                        "asks for",
                        todo=f"`kanna targets {self.target}` shows its encodings",
                    )
                if (width := columns(model.tensors[name])) % encoding.block:
                    raise UsageError(
                        f"{wanted} cannot hold {name}, whose rows have {width} values",
                        expected=f"a multiple of {encoding.block}",
                    )

    def allow(self) -> Callable[[str, str], bool]:
        """A test whether a tensor may have an encoding."""
        excluded = {encodings.get(e).name for e in self.exclude}
        admits = self.admits

        def allowed(tensor: str, encoding: str) -> bool:
            if admits is not None and not admits(tensor, encoding):
                return False
            for pattern, required in self.rules.items():
                if re.search(pattern, tensor):
                    return encoding == encodings.get(required).name
            if any(re.search(p, tensor) for p in self.keep):
                return encoding == self.full
            return encoding not in excluded

        return allowed

    def hold(self, chosen: Mapping[str, str]) -> bool:
        """Whether the target multiplies every tensor.

        Args:
            chosen: Tensor → encoding.
        """
        return self.admits is None or all(self.admits(n, e) for n, e in chosen.items())
