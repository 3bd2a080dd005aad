"""Examples as the device will see them: the model's own template, and which tokens are learned."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna.errors import FormatError, UsageError
from kanna.evaluation.reference import reference_folder
from kanna.formats import folder_files
from kanna.runtimes.torch import RUNTIME as TORCH
from kanna.sources import Source
from kanna.tokenizer import templates
from kanna.tokenizer.chat import render
from kanna.tokenizer.files import NAMES, TOKENIZER, configured
from kanna.training.examples import Example
from kanna.training.messages import with_texts
from kanna.training.preferences import PreferencePair

UNLEARNED = -100
"""What transformers leaves out of a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedExample:
    """One example in tokens.

    Attributes:
        ids: Of the whole.
        labels: The same, or UNLEARNED where nothing is learned.
    """

    ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """Tokens whose prediction counts: the first of all has none."""
        return sum(label != UNLEARNED for label in self.labels[1:])

    @property
    def read(self) -> int:
        """Tokens that a model reads of it."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPair:
    """One prompt with two answers in tokens.

    Attributes:
        prompt: What both begin with.
        chosen: The answer that is preferred.
        rejected: The other.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def learned(self) -> int:
        """Tokens of both answers; none where one has none."""
        return len(self.chosen) + len(self.rejected) if self.chosen and self.rejected else 0

    @property
    def read(self) -> int:
        """Tokens that a model reads of it: the prompt with each answer."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)

    def example(self, answer: list[int]) -> TokenizedExample:
        """The prompt with one of the answers."""
        labels = [UNLEARNED] * len(self.prompt) + answer
        return TokenizedExample(ids=self.prompt + answer, labels=labels)


@dataclass(slots=True, kw_only=True)
class ChatTokenizer:
    """Renders and cuts examples for one model.

    Attributes:
        tokenizer: That of transformers, a fast one.
        templates: Chat templates by name.
        most: Tokens of an example at most.
        cut: Examples that were longer.
        unlearned: Examples of which no answer was left.
        partial: Conversations of which only the last answer could be learned.
        lengths: Tokens of every example before it is cut; of a pair, those of the longer side.
    """

    tokenizer: Any
    templates: Mapping[str, str]
    most: int
    cut: int = 0
    unlearned: int = 0
    partial: int = 0
    lengths: list[int] = field(default_factory=list[int])

    @classmethod
    def of(cls, tokenizer: Any, files: Mapping[str, Path], most: int) -> ChatTokenizer:
        """One with the templates among the files of a model."""
        return cls(
            tokenizer=tokenizer, templates=templates.read(files, configured(files)), most=most
        )

    @classmethod
    def of_source(cls, source: Source, most: int) -> ChatTokenizer:
        """One for a source, also where adapters are merged into it: no weight is read for it.

        Args:
            source: The model.
            most: Tokens of an example at most.

        Raises:
            MissingError: transformers is not here, which reads the tokenizer.
        """
        _, transformers = TORCH.load()
        names = [name for name in ("config.json", *NAMES) if name in source.files]
        with tempfile.TemporaryDirectory(prefix="kanna-") as scratch:
            folder = Path(scratch)
            for name in names:
                shutil.copyfile(source.files[name], folder / name)
            if TOKENIZER not in names:
                folder = reference_folder(source)
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            return cls.of(tokenizer, folder_files.files(folder), most)

    def text(self, example: Example) -> str:
        """An example as the model reads it."""
        if example.messages:
            return self._chat(example)[0]
        return example.prompt + example.text

    def question(self, example: Example) -> tuple[str, str]:
        """The prompt of an example as the model reads it, and its last answer; "" for a text."""
        if not example.messages:
            return example.prompt, example.text
        last = max(i for i, m in enumerate(example.messages) if m["role"] == "assistant")
        answer = example.messages[last]
        wanted = str(answer.get("content") or answer.get("tool_calls") or "")
        return (self._render(example, last, prompt=True) if last else ""), wanted

    def all(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        """Every example that has something to learn; counts those that have not.

        Raises:
            UsageError: The template cannot render one.
        """
        done = [self._one(example) for example in examples]
        return [one for one in done if one is not None]

    def pairs(self, pairs: Sequence[PreferencePair]) -> list[TokenizedPair]:
        """Every pair that differs within the length; counts those that do not.

        Raises:
            UsageError: The template cannot render one.
        """
        done = [self._pair(pair) for pair in pairs]
        return [one for one in done if one is not None]

    def _pair(self, pair: PreferencePair) -> TokenizedPair | None:
        (chosen, chosen_labels), (rejected, rejected_labels) = (
            self._whole(example) for example in (pair.chosen, pair.rejected)
        )
        begin = min(last_answer(chosen_labels), last_answer(rejected_labels))
        at = 0
        while at < begin and chosen[at] == rejected[at]:
            at += 1
        self._measure(max(len(chosen), len(rejected)))
        made = TokenizedPair(
            prompt=chosen[:at], chosen=chosen[at : self.most], rejected=rejected[at : self.most]
        )
        if not made.prompt or not made.learned or made.chosen == made.rejected:
            self.unlearned += 1
            return None
        return made

    def _measure(self, tokens: int) -> None:
        self.lengths.append(tokens)
        self.cut += tokens > self.most

    def _one(self, example: Example) -> TokenizedExample | None:
        ids, labels = self._whole(example)
        self._measure(len(ids))
        one = TokenizedExample(ids=ids[: self.most], labels=labels[: self.most])
        if not one.learned:
            self.unlearned += 1
            return None
        return one

    def _whole(self, example: Example) -> tuple[list[int], list[int]]:
        """Tokens and labels of an example, not cut."""
        if example.messages:
            text, spans = self._chat(example)
            special = False
        else:
            end = self.tokenizer.eos_token or ""
            text = example.prompt + example.text + ("" if example.text.endswith(end) else end)
            spans, special = [(len(example.prompt), len(text))], True
        encoded = self.tokenizer(
            text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        labels = [
            token if any(b > start and a < stop for start, stop in spans) else UNLEARNED
            for token, (a, b) in zip(ids, encoded["offset_mapping"], strict=True)
        ]
        if not example.messages and not example.prompt:
            labels = list(ids)
        return ids, labels

    def _render(self, example: Example, count: int, *, prompt: bool = False) -> str:
        template = templates.choose(self.templates, example.tools)
        if template is None:
            raise UsageError(
                f"{example.where} is a conversation, and the model has no chat template",
                expected="a model that was tuned for chat",
                todo='give {"prompt": …, "completion": …} or {"text": …}, or add '
                "chat_template.jinja to the model's folder",
            )
        messages = example.messages[:count]
        more = {"tools": list(example.tools)} if example.tools else {}
        shapes = [messages]
        if any(message.get("tool_calls") for message in messages):
            shapes.append([with_texts(message) for message in messages])
        refusals: list[str] = []
        for shape in shapes:
            try:
                return render(
                    template,
                    shape,
                    bos=self.tokenizer.bos_token or "",
                    eos=self.tokenizer.eos_token or "",
                    add_generation_prompt=prompt,
                    **more,
                )
            except FormatError as error:
                refusals.append(error.found)
        roles = ", ".join(dict.fromkeys(m["role"] for m in example.messages))
        raise UsageError(
            f"{example.where}: the model's chat template refuses it: {refusals[0]}",
            expected=f"a template that takes the roles {roles} in this order",
            todo="change the conversation to what the template takes",
        )

    def _chat(self, example: Example) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and where in it answers are."""
        whole = self._render(example, len(example.messages))
        self._refuse_losses(example, whole)
        spans: list[tuple[int, int]] = []
        answers = [i for i, m in enumerate(example.messages) if m["role"] == "assistant"]
        for index in answers:
            before = self._render(example, index, prompt=True) if index else ""
            after = self._render(example, index + 1)
            if whole.startswith(before) and whole.startswith(after) and len(after) > len(before):
                spans.append((len(before), len(after)))
            else:  # a template that writes "assistant" before a first thought, or drops it later
                spans = _common(before, whole, spans if index == answers[-1] else [])
        if len(spans) < len(answers):
            self.partial += 1
        return whole, spans

    def _refuse_losses(self, example: Example, text: str) -> None:
        """UsageError where the template leaves out what the conversation has."""
        for message in example.messages:
            content = message.get("content")
            if isinstance(content, str) and content.strip() and content.strip() not in text:
                if message["role"] == "assistant" and "</think>" in content:
                    continue  # thoughts of earlier turns are left out on purpose
                raise UsageError(
                    f"{example.where}: the model's chat template leaves out a message of the role "
                    f"{message['role']}",
                    expected="a template that has a place for this role",
                    todo="put its text into a message of the user",
                )
        for tool in example.tools:
            function = tool.get("function")
            name = (function if isinstance(function, Mapping) else tool).get("name")
            if isinstance(name, str) and name not in text:
                raise UsageError(
                    f"{example.where} has the tool {name}, and the model's chat template leaves "
                    "tools out",
                    expected="a template that writes tools",
                    todo="take a model that was tuned for tools, or write them into the system "
                    "message",
                )


def last_answer(labels: Sequence[int]) -> int:
    """The place of the first token of the last answer; the end, where there is none.

    Args:
        labels: Of an example, UNLEARNED outside of answers.
    """
    at = next((i for i in reversed(range(len(labels))) if labels[i] != UNLEARNED), len(labels))
    while at > 0 and at < len(labels) and labels[at - 1] != UNLEARNED:
        at -= 1
    return at


def _common(before: str, whole: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The span from where a prompt and the whole text part ways."""
    at = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), None)
    begin = min(len(before), len(whole)) if at is None else at
    return [*spans, (begin, len(whole))] if begin < len(whole) else spans
