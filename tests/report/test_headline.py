"""The top of the page and the tables: what a reader sees first, also on a phone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from report.test_report import data, look_at, open_page

from kanna import report
from kanna.report import plot
from kanna.report.headline import headline

__all__ = ["data"]

PHONE = """<!doctype html><body style="margin:0">
<iframe id="page" src="report.html" style="border:0;width:375px;height:2000px"></iframe>
<pre id="out"></pre>
<script>
document.getElementById('page').onload = (event) => {
  const page = event.target.contentDocument;
  const row = page.querySelector('.measured tr.best');
  const cells = [...row.children].map((c) => Math.round(c.getBoundingClientRect().right));
  const wide = page.documentElement.scrollWidth;
  document.getElementById('out').textContent = 'ends ' + cells.join(',') + ' of ' + wide + ';';
};
</script>"""


def spread(data: dict[str, Any]) -> dict[str, Any]:
    """The report with rounds that differ."""
    data = copy.deepcopy(data)
    for row in data["rows"]:
        if row["gen_tps"]:
            row["speed_spread"] = {"gen_tps": [row["gen_tps"] - 4, row["gen_tps"] + 3]}
            row["speedup_spread"] = [row["speedup"] - 0.1, row["speedup"] + 0.1]
    return data


def test_the_first_thing_is_what_to_use(data: dict[str, Any]) -> None:
    page = report.html_page(spread(data))
    first = page[page.index("<main>") : page.index("<svg")]
    for words in (
        "tiny-Q4_K_M.gguf",
        "105.5 MB",
        "93 of 100 next tokens the same",
        "✓ intact",
        "92 tokens/s",
        "88 to 95 by round",
        "kanna chat /out/tiny-Q4_K_M.gguf",
        "close",
    ):
        assert words in first, words
    assert page.index("already quantized") > page.index("<h2>Environment</h2>"), "notes come last"
    assert "proved" not in page and "Words on this page" in page


def test_the_source_is_kept_or_nothing_is_recommended(data: dict[str, Any]) -> None:
    data["recommended"] = {"name": "", "why": "keep it", "rule": "", "keep_source": True}
    data["source"]["bytes"] = 98_000_000
    drawn = headline(data)
    assert "the source, tiny" in drawn and "98.0 MB" in drawn and "kanna chat tiny" in drawn
    del data["recommended"]["keep_source"]  # as earlier versions wrote it
    assert "No recommendation" in headline(data) and "kanna chat" not in headline(data)
    assert "★" not in report.model_card(data)


def test_reports_of_earlier_runs_are_drawn(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        assert "grade" not in row and "speed_spread" not in row
    page, card = report.html_page(data), report.model_card(data, "Q4_K_M")
    assert "intact" in page and "close (0.04100)" in card and "intact" in card


def test_columns_without_figures_are_left_out(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        row["perplexity"] = row["perplexity_ratio"] = row["kl_p999"] = row["load_s"] = None
    page = report.html_page(data)
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page)
    assert "KL 99 %" in heads and "peak memory" in heads
    assert not {"perplexity", "÷ source", "KL 99.9 %", "load"} & set(heads)
    assert "perplexity" not in report.model_card(data).split("## Measured")[1]


def test_closeness_is_visible_on_a_phone(data: dict[str, Any], tmp_path: Path) -> None:
    report.write(spread(data), tmp_path)
    (tmp_path / "phone.html").write_text(PHONE)
    seen = open_page(
        tmp_path / "phone.html",
        tmp_path / "profile",
        "--allow-file-access-from-files",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ).stdout
    measured = re.search(r"ends ([\d,]+) of (\d+);", seen)
    assert measured, seen[-300:]
    ends = list(map(int, measured[1].split(",")))
    assert ends[2] <= 375, f"preset, size and closeness end at {ends[:3]}"
    assert int(measured[2]) <= 375, "the page itself does not scroll sideways"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_of_a_phone(data: dict[str, Any], tmp_path: Path, scheme: str) -> None:
    report.write(spread(data), tmp_path)
    look_at(tmp_path, f"headline-phone-{scheme}", 375, 812, scheme)


def test_the_chart_is_filled_by_what_is_compared(data: dict[str, Any]) -> None:
    drawn = report.html_page(data)
    wide = drawn[drawn.index("<svg") : drawn.index("</svg>")]
    marks = re.findall(r'class="dot" cx="([\d.]+)" cy="([\d.]+)"', wide)
    across, up = ([float(m[i]) for m in marks] for i in (0, 1))
    assert max(across) - min(across) > 0.8 * (plot.WIDE.end - plot.WIDE.left)
    height = plot.WIDE.base - plot.WIDE.top
    assert max(up) - min(up) > 0.7 * height
    assert "BF16 → 270 MB" in wide, "what lies beyond the axes says where"


@pytest.mark.parametrize(
    ("low", "high"), [(0.003, 0.9), (1e-6, 4e-6), (1e-6, 3.0), (0.04, 0.05), (1.0, 9.0)]
)
def test_logarithmic_ticks_lie_inside(low: float, high: float) -> None:
    ticks = plot.log_ticks(low, high)
    assert all(low * 0.99 <= t <= high * 1.01 for t in ticks) and len(ticks) <= 9
    for start, stop in ((80, 160), (0.0, 1.0), (97.9, 98.1)):
        across = plot.cut_ticks(start, stop)
        assert across[0] <= start and across[-1] >= stop and len(across) >= 2
