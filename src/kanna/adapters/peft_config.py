"""adapter_config.json of PEFT: how strong each change is, and what cannot be taken exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from kanna._util.typed import (
    FLAG,
    OBJECT,
    FieldKind,
    TypedObject,
    either,
    listed,
    number,
    text,
    whole,
)
from kanna.errors import FormatError, UnsupportedError

_RANK = whole(1, 1 << 16)
_ROWS = listed(whole(), 1 << 20)
_REFUSED: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts only after some tokens of a text (activated LoRA)",
    "arrow_config": "it chooses among adapters token by token (Arrow)",
    "kasa_config": "it changes the singular values of the base (KaSA)",
    "layer_replication": "it repeats layers of the base",
    "megatron_config": "it is split over devices (Megatron)",
    "monteclora_config": "it draws its values by chance (MonteCLoRA)",
    "target_parameters": "it changes stacked parameters of experts (target_parameters)",
    "use_bdlora": "its matrices are block-diagonal (BD-LoRA)",
    "use_qalora": "it pools the inputs of a quantized base (QA-LoRA)",
}
"""Keys that change what is computed, by what they mean."""
_MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that take the adapter's first values away from the base model."""


class PeftConfig:
    """adapter_config.json; see PEFT's LoraConfig.

    Args:
        config: The object.
        given: What the user named.

    Raises:
        UnsupportedError: It asks for what cannot be taken exactly.
        FormatError: A field holds something else than it must.
    """

    def __init__(self, config: TypedObject, given: str) -> None:
        self._config, self._given = config, given
        self._refuse()
        self.base = config.get("base_model_name_or_path", text(4096), "")
        self.revision = config.get("revision", text(256), "")
        self.architecture = config.part("auto_mapping").get("base_model_class", text(256), "")
        self.ties = config.get("ensure_weight_tying", FLAG, False)
        self.alpha = config.get("lora_alpha", number(), 8.0)
        self._rank = config.get("r", _RANK, 8)
        self._root = config.get("use_rslora", FLAG, False)
        self._ranks = self._pattern("rank_pattern", _RANK)
        self._alphas = self._pattern("alpha_pattern", number())

    def _refuse(self) -> None:
        kind = self._config.get("peft_type", text(64), "LORA")
        if kind.upper() != "LORA":
            raise self._unsupported(f"is of the type {kind}", "a LoRA adapter")
        for key, meaning in _REFUSED.items():
            if self._config.values.get(key):
                raise self._unsupported(f"cannot be taken exactly: {meaning}", f"no {key}")
        start = self._config.values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_MOVED_BASE):
            raise UnsupportedError(
                f"{self._given} was begun by {start}, which also changed its base model",
                expected="an adapter of the base model as it was published",
                todo="save it again with path_initial_model_for_weight_conversion, as PEFT's "
                "documentation of this initialization says",
            )

    def _unsupported(self, what: str, expected: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._given} {what}",
            expected=expected,
            todo="merge it with PEFT (AutoPeftModelForCausalLM.from_pretrained(FOLDER)"
            ".merge_and_unload()), where PEFT can, and give the merged folder",
        )

    def _pattern(self, key: str, kind: FieldKind[Any]) -> dict[re.Pattern[str], Any]:
        """Values by the end of a module's name; PEFT reads its keys as regular expressions."""
        given: Mapping[str, Any] = self._config.get(key, OBJECT, {})
        part = TypedObject(given, self._config.file, self._config.todo, f"{key}.")
        patterns: dict[re.Pattern[str], Any] = {}
        for pattern in given:
            try:
                if len(pattern) > 512:
                    raise re.error("too long")
                patterns[re.compile(rf"(.*\.)?({pattern})$")] = part.need(pattern, kind)
            except re.error as error:
                raise FormatError(
                    f"{self._config.file} has the pattern {pattern[:80]!r} in {key}: {error}",
                    expected="a regular expression",
                    todo=self._config.todo,
                ) from None
        return patterns

    def rank(self, module: str) -> int:
        """The rank that a module has."""
        return next((v for p, v in self._ranks.items() if p.match(module)), self._rank)

    def scale(self, module: str) -> float:
        """What the change of a module is multiplied by."""
        alpha = next((v for p, v in self._alphas.items() if p.match(module)), self.alpha)
        rank = self.rank(module)
        return float(alpha / (math.sqrt(rank) if self._root else rank))

    def token_rows(self, module: str, shape: tuple[int, ...]) -> list[int]:
        """Which rows of an embedding were trained by themselves.

        Args:
            module: Name of the embedding, or of the head that is the same matrix.
            shape: Shape of their values.

        Raises:
            FormatError: There are not as many as values.
        """
        given = self._config.get("trainable_token_indices", either(_ROWS, OBJECT), list[int]())
        if isinstance(given, Mapping):
            part = self._config.part("trainable_token_indices")
            key = next((k for k in given if module == k or module.endswith(f".{k}")), None)
            given = part.need(key or next(iter(given), "tokens"), _ROWS)
        if len(shape) != 2 or len(given) != shape[0] or len(set(given)) != len(given):
            raise FormatError(
                f"{self._given} has values of shape {list(shape)} for {len(given)} tokens of "
                f"{module}",
                expected="trainable_token_indices names each row once",
                todo="save the adapter again",
            )
        return given
