"""What came of training an adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kanna._util.results import Result
from kanna.checks import gate_word
from kanna.training import drafts


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdaptResult(Result):
    """An adapter that was trained, and how.

    Losses are in nats per learned token of held-out examples; those of pairs are what their
    objective lowers.

    Attributes:
        path: The adapter's folder.
        base: The model it was trained on.
        objective: What was learned: `sft`, `dpo`, `orpo`, or `distill` with a teacher.
        base_loss: Without the adapter.
        tuned_loss: With it.
        base_figures: Figures without the adapter: `domain_loss`, nats per token of wanted held-out
            answers; `general_loss`, of built-in text; of pairs, `accuracy`, the share whose chosen
            answer is likelier per token, and `margin`, by how many nats; with a teacher
            `teacher_kl`, the KL divergence from it on held-out answers.
        tuned_figures: The same with it.
        steps: Steps that were made.
        best_step: The step whose state was kept.
        stopped: Why it ended: `done`, `early` (no more improvement), `time` or `nan`.
        examples: Numbers of examples: `train`, `held_out`, `duplicates`, `near_duplicates`, `cut`,
            `unlearned`.
        lengths: Tokens of examples before they are cut: `median`, `p90`, `most`, `limit`, `bins`.
        packing: Whether examples shared rows, `used`; why not, though it would save, `refusal`;
            tokens of them alone, with the padding of batches and with that of packed rows,
            `padding`, see `Padding`; {} of pairs, and with mlx-lm.
        tokens: Learned tokens of the training examples.
        settings: How it was trained.
        rate_test: With `auto`: the learning rate, `rate`, and how it was found: `best`, the one
            that did best in the test, `curve`, `steps`, `seconds`; {} where it was given.
        history: Losses by step.
        samples: Held-out prompts with the answers of base and tuned model: `prompt`, `wanted`,
            `before`, `after`.
        aware: With `for_plan`: what the files of both adapters keep, `plain` and `aware`, and which
            one is `kept`, see `AwareOutcome`; {} without.
        gate: What llama.cpp makes of the adapter that was written, merged into its base: `status`,
            `checks`, `share` of the gain that is kept with its `interval`, `base_loss`,
            `tuned_loss` as trained and `runtime_loss` of the same examples, see `AdapterGate`; {}:
            it was not asked.
        draft: With `draft`: how many of its guesses the model takes on held-out prompts, `base`
            and `tuned`, see `DraftOutcome`; {} without.
        costs: Time and memory of training, predicted and measured: `predicted_seconds`,
            `training_seconds`, `looking_seconds`, `predicted_bytes`, `peak_bytes`.
        seconds: Time it took.
        report: The page.
        notes: Remarks.
    """

    path: str
    base: str
    objective: str = "sft"
    base_loss: float
    tuned_loss: float
    base_figures: dict[str, float] = field(default_factory=dict[str, float])
    tuned_figures: dict[str, float] = field(default_factory=dict[str, float])
    steps: int
    best_step: int
    stopped: str
    examples: dict[str, int]
    lengths: dict[str, Any] = field(default_factory=dict[str, Any])
    packing: dict[str, Any] = field(default_factory=dict[str, Any])
    tokens: int
    settings: dict[str, Any]
    rate_test: dict[str, Any] = field(default_factory=dict[str, Any])
    history: list[dict[str, float]]
    samples: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    aware: dict[str, Any] = field(default_factory=dict[str, Any])
    gate: dict[str, Any] = field(default_factory=dict[str, Any])
    draft: dict[str, Any] = field(default_factory=dict[str, Any])
    costs: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float
    report: str = ""
    notes: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether the held-out loss fell, and no check of the gate failed."""
        return self.tuned_loss < self.base_loss and self.gate.get("status") != "failed"

    def headline(self) -> str:
        """What it learned."""
        return f"{self.path}: held-out loss {self.base_loss:.4f} → {self.tuned_loss:.4f}"

    def facts(self) -> list[tuple[str, object]]:
        """The figures."""
        counts = self.examples
        return [
            ("Adapter", self.path),
            ("Held-out loss", f"{self.base_loss:.4f} before, {self.tuned_loss:.4f} after"),
            *figure_facts(self.to_dict()),
            ("Steps", f"{self.steps}, the best after {self.best_step} ({self.stopped})"),
            ("Examples", f"{counts['train']} learned, {counts['held_out']} held out"),
            ("Seconds", f"{self.seconds:.0f}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def figure_facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines about what was measured beside the loss, for people; none of what was not.

    Args:
        data: A result as a dictionary.
    """
    before, after = data["base_figures"], data["tuned_figures"]
    lines = [
        *_gate_facts(data["gate"], pairs="accuracy" in before),
        *_aware_facts(data["aware"]),
        *drafts.facts(data["draft"]),
    ]
    if "general_loss" in before and "general_loss" in after:
        general = f"{before['general_loss']:.4f} before, {after['general_loss']:.4f} after"
        lines.append(("Loss on general text", general))
    if "teacher_kl" in before and "teacher_kl" in after:
        kl = f"{before['teacher_kl']:.4f} before, {after['teacher_kl']:.4f} after"
        lines.append(("KL to the teacher", kl))
        answers = f"{before['domain_loss']:.4f} before, {after['domain_loss']:.4f} after"
        lines.append(("Loss on held-out answers", answers))
    if "accuracy" not in before:
        return lines
    return [
        *lines,
        ("Preferred answer likelier", f"{before['accuracy']:.1%} → {after['accuracy']:.1%}"),
        ("Margin per token", f"{before['margin']:+.4f} → {after['margin']:+.4f} nats"),
    ]


def gate_notes(gate: dict[str, Any]) -> list[str]:
    """What did not pass and what could not be checked, as sentences without a full stop.

    Args:
        gate: `AdapterGate.to_dict()`; {} where it was left out.
    """
    notes: list[str] = []
    unchecked: dict[str, list[str]] = {}
    for check in gate.get("checks", []):
        if check["ok"] is False:
            notes.append(f"the file of the adapter failed: {check['name']}, {check['detail']}")
        elif check["ok"] is None:
            unchecked.setdefault(check["detail"], []).append(check["name"])
    return notes + [f"not checked: {', '.join(names)} ({why})" for why, names in unchecked.items()]


def _gate_facts(gate: dict[str, Any], *, pairs: bool) -> list[tuple[str, str]]:
    if gate.get("share") is None:
        return []
    low_high = gate["interval"]
    around = f" ({low_high[0]:.1%} to {low_high[1]:.1%})" if low_high else ""
    loss = gate["runtime_loss"]
    # Of pairs it is by how much the rejected answer is likelier: the margin, turned around.
    what = f"margin {-loss:+.4f} nats per token" if pairs else f"loss {loss:.4f}"
    value = f"{gate['share']:.1%}{around} of the gain, {what}"
    where = gate["preset"] or "beside the base"
    return [(f"Kept in llama.cpp, {where}", f"{value}; {gate_word(gate['status'])}")]


def _aware_facts(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    if not outcome:
        return []
    plain, aware = (
        f"loss {side['loss']:.4f}" if side["share"] is None else f"{side['share']:.1%}"
        for side in (outcome["plain"], outcome["aware"])
    )
    kept = {"plain": "the plain one", "aware": "the latter"}[outcome["kept"]]
    value = f"{plain} plain, {aware} trained on with its values; {kept} is kept"
    return [(f"Kept in {outcome['plan']}", value)]
