"""The words of the page, explained on it; docs/glossary.md has more of them."""

from __future__ import annotations

from kanna.closeness import GRADES
from kanna.escaping import html_text
from kanna.report.tables import FLOOR, small_table

WORDS = (
    ("closeness", "how little the answers of a file differ from the original's, as a grade"),
    (
        "same next token",
        "how often both models find the same next token likeliest, of 100 places in a text",
    ),
    (
        "KL",
        "KL divergence: how far the probabilities of the next token are from the original's, in "
        "nats; 0 is the same model. The mean over all places, and what half, 99 % and 99.9 % of "
        "them stay below",
    ),
    ("intact", "the file holds what it should and runs; how close it is, the grade says"),
    (FLOOR, "what a runtime adds by computing in 8 bits, whatever the weights"),
    ("perplexity", "how surprised a model is by the text: lower is better"),
    ("bits per weight", "bytes of all tensors by their weights; scales count"),
    (
        "× faster",
        "the ratio to the 16-bit file, of rounds that followed each other; ranges that overlap "
        "make neither the faster",
    ),
)


def words() -> str:
    """Returns the words and the table of grades, folded."""
    items = "".join(f"<dt>{html_text(w)}</dt><dd>{html_text(m)}</dd>" for w, m in WORDS)
    rows = [
        (
            one.name,
            f"{one.kl:g}" if one.top1 else "more",
            f"{100 * one.top1:g}" if one.top1 else "fewer",
            one.meaning,
        )
        for one in GRADES
    ]
    columns = ("grade", "mean KL up to", "next tokens the same, of 100", "what to expect")
    return (
        f"<details><summary>Words on this page</summary><dl>{items}</dl>"
        + small_table("Grades: the worse of both figures decides", columns, rows)
        + '<p class="muted">More words: docs/glossary.md of kanna.</p></details>'
    )
