"""What inputs of products cost in 8 bits, by kind of product, and which are left in floats."""

from __future__ import annotations

from typing import Any

from kanna.report.tables import small_table


def rounded_inputs(levels: dict[str, Any]) -> str:
    """Returns a table of KL divergence and equal top tokens with the inputs of each kind rounded.

    Args:
        levels: As JSON has it.
    """
    rows = [
        ("none", *_score(levels["weights"]), ""),
        *(
            (k["kind"], *_score(k["rounded"]), "floats" if k["floats"] else "rounded")
            for k in levels["kinds"]
        ),
        ("all", *_score(levels["rounded"]), ""),
        ("as written", *_score(levels["chosen"]), ""),
    ]
    caption = (
        "Divergence with the inputs of one kind of product rounded to 8 bits, those of all others "
        "in floats. A kind keeps floats where rounding adds more than "
        f"{levels['share']:.0%} of what the weights cost."
    )
    return small_table(caption, ("rounded", "mean KL", "same next token", "in the file"), rows)


def _score(score: dict[str, float]) -> tuple[str, str]:
    return f"{score['kl']:.5f}", f"{score['top1']:.1%}"
