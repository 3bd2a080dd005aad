"""The report: drawn from a hand-made result, and opened in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import needs

from kanna import report
from kanna.report import chart, plot
from kanna.tasks.pairing import TaskFlip, TaskScore

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


def row(name: str, role: str = "candidate", **given: Any) -> dict[str, Any]:
    blank: dict[str, Any] = {
        "name": name,
        "role": role,
        "preset": name,
        "path": None,
        "file": None,
        "file_bytes": None,
        "gate": None,
        "bits_per_weight": None,
        "nominal_bits": None,
        "precision_class": "",
        "kl_mean": None,
        "kl_mean_ci": None,
        "kl_median": None,
        "kl_p99": None,
        "kl_p999": None,
        "top1": None,
        "perplexity": None,
        "perplexity_ci": None,
        "perplexity_ratio": None,
        "perplexity_ratio_ci": None,
        "load_s": None,
        "peak_bytes": None,
        "ttft_s": None,
        "prompt_tps": None,
        "gen_tps": None,
        "speedup": None,
        "less_memory": None,
        "checks": [],
        "substitutions": [],
        "tensors": [],
        "notes": [],
        "command": "",
    }
    return blank | given


def artefact(
    name: str, size: float, kl: float, speed: float, role: str = "candidate"
) -> dict[str, Any]:
    bits = size * 8 / 134.5
    return row(
        name,
        role,
        path=f"/out/tiny-{name}.gguf",
        file=f"tiny-{name}.gguf",
        file_bytes=int(size * 1e6),
        gate="proved",
        bits_per_weight=bits,
        nominal_bits=bits - 0.3,
        precision_class="low (3–4 bit)",
        kl_mean=kl,
        kl_mean_ci=[kl * 0.95, kl * 1.05],
        kl_median=kl / 2,
        kl_p99=kl * 9,
        kl_p999=kl * 30,
        top1=0.93,
        perplexity=18.5,
        perplexity_ci=[18.1, 18.9],
        perplexity_ratio=1.02,
        perplexity_ratio_ci=[1.01, 1.03],
        load_s=0.11,
        peak_bytes=int(size * 1.3e6),
        ttft_s=0.05,
        prompt_tps=410.0,
        gen_tps=speed,
        speedup=speed / 40,
        less_memory=0.4,
        command=f"kanna convert tiny -o tiny-{name}.gguf",
        checks=[{"name": "tensors", "ok": True, "detail": "290 of 290"}],
        substitutions=[
            {
                "name": "blk.0.attn_q.weight",
                "wanted": "q4_k",
                "got": "q5_0",
                "reason": "576 columns",
            }
        ],
        tensors=[
            {
                "name": "blk.0.attn_q.weight",
                "shape": [576, 576],
                "source": "bf16",
                "encoding": "q5_0",
                "method": "search",
                "bytes": 228096,
            }
        ],
    )


@pytest.fixture
def data() -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "name": "Tiny <b>& co</b>",
        "date": "2026-01-02",
        "source": {
            "name": "tiny",
            "kind": "hf",
            "family": "llama",
            "parameters": 134_515_008,
            "license": "apache-2.0",
            "hash": "sha256:ab",
            "type": "bf16",
            "base_model": "someone/tiny",
            "revision": "main",
            "chat_template": True,
            "languages": ["en"],
        },
        "rows": [
            artefact("BF16", 270, 1.6e-4, 40, "baseline"),
            row("floor", "floor", kl_mean=0.003),
            artefact("Q8_0", 144.8, 0.0031, 70),
            artefact("Q6_K", 138.4, 0.0045, 71),
            artefact("Q4_K_M", 105.5, 0.041, 92),
            artefact("Q3_K_M", 93.5, 0.21, 97),
            artefact("Q2_K", 88.2, 0.83, 99) | {"gate": "failed"},
        ],
        "recommended": {
            "name": "Q4_K_M",
            "why": "Every further megabyte buys little.",
            "rule": "the knee",
        },
        "evaluation": {
            "text": "WikiText-2",
            "windows": 8,
            "positions": 2048,
            "reference": "the source at F32",
            "reference_perplexity": 18.2,
        },
        "environment": {"CPU": "Some CPU", "llama.cpp": "b1234, native"},
        "command": "kanna compare someone/tiny -o out/",
        "notes": ["The source was already quantized (q4_1)."],
    }


class Checker(HTMLParser):
    """Fails on a tag that is not closed in order; collects what would reach the network or run."""

    VOID = frozenset({"meta", "br", "line", "circle", "rect", "stop", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in {"script", "link", "img", "iframe"} or any(
            k in {"src", "href"} or k[:2] == "on" for k, _ in attrs
        ):
            self.outside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(data: dict[str, Any]) -> None:
    page = report.html_page(data)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.outside == []
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>& co" not in page, "names are data, not markup"
    for wanted in (
        "Q4_K_M",
        "already quantized",
        "Some CPU",
        "kanna compare someone/tiny",
        "576 columns",
        "failed",
    ):
        assert wanted in page


def test_every_column_has_a_heading(data: dict[str, Any]) -> None:
    page = report.html_page(data)
    rows = re.findall(r"<tr[^>]*>.*?</tr>", page.split("<h2>Measured</h2>")[1].split("<h2>")[0])
    widths = [len(re.findall(r"<t[hd][ >]", r)) for r in rows]
    assert widths == [11] * (1 + len(data["rows"])) + [8] * len(data["rows"])


def test_chart_tells_every_point_in_words(data: dict[str, Any]) -> None:
    drawn = chart.chart(data)
    for one in data["rows"]:
        if one["role"] != "floor":
            assert f"{one['name']}:" in drawn
    assert "floor" in drawn
    assert "Recommended: Q4_K_M" in chart.describe(data)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_chart_of_few_points(data: dict[str, Any], kept: int) -> None:
    data["rows"] = [r for r in data["rows"] if r["role"] == "candidate"][:kept]
    for one in data["rows"]:
        one["gen_tps"] = None
        one["kl_mean"] = 0.0
    drawn = chart.chart(data)
    assert drawn.count('class="dot"') == 2 * kept, "once wide, once narrow"
    assert "nan" not in drawn


def test_ticks_cover_the_range() -> None:
    for stop in (0.004, 1.0, 37.0, 105.6, 8000.0):
        ticks = plot.linear_ticks(0, stop)
        assert ticks[0] == 0 and ticks[-1] >= stop and 3 <= len(ticks) <= 8


def test_card_front_matter_and_numbers(data: dict[str, Any]) -> None:
    card = report.model_card(data, "Q4_K_M")
    _, head, body = card.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["base_model"] == "someone/tiny"
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "gguf"
    assert {"gguf", "llama.cpp", "kanna"} <= set(front["tags"])
    assert "llama-cli -m tiny-Q4_K_M.gguf" in body
    assert "0.04100" in body and "kanna convert tiny" in body and "passed" in body
    assert all(line.count("|") == 10 for line in body.splitlines() if line.startswith("|"))
    assert "failed" in report.model_card(data, "Q2_K").split("## Measured")[0]


def test_write_makes_every_file(data: dict[str, Any], tmp_path: Path) -> None:
    written = {p.name for p in report.write(data, tmp_path)}
    assert {"report.html", "report.json", "README.md", "tiny-Q4_K_M.md"} <= written
    assert json.loads((tmp_path / "report.json").read_text()) == data
    assert not list(tmp_path.glob("*.partial"))


def open_page(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a headless Chromium."""
    program = needs.program(*BROWSERS, install="chromium")
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def framed(folder: Path, width: int, height: int) -> Path:
    """The report in a frame of `width` pixels: Chromium's own window is never narrower than 500."""
    page = folder / f"frame-{width}.html"
    frame = f"border:0;width:{width}px;height:{height}px"
    page.write_text(f'<body style="margin:0"><iframe src="report.html" style="{frame}">')
    return page


def look_at(folder: Path, name: str, width: int, height: int, scheme: str) -> None:
    """The report of a folder in a real browser, which must not complain.

    Its picture stays in build/screenshots.
    """
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    picture = SCREENSHOTS / f"{name}.png"
    picture.unlink(missing_ok=True)
    done = open_page(
        framed(folder, width, height),
        folder / "profile",
        f"--window-size={max(width, 500)},{height}",
        f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    )
    assert picture.stat().st_size > 20_000
    assert not re.findall(r"CONSOLE.*", done.stderr), "the page made the browser complain"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("device", "width", "height"), [("desktop", 1280, 1750), ("phone", 390, 1900)]
)
def test_opens_in_a_real_browser(
    data: dict[str, Any], tmp_path: Path, device: str, width: int, height: int, scheme: str
) -> None:
    report.write(data, tmp_path)
    look_at(tmp_path, f"report-{device}-{scheme}", width, height, scheme)


def test_browser_sees_the_chart_and_the_table(data: dict[str, Any], tmp_path: Path) -> None:
    report.write(data, tmp_path)
    seen = open_page(tmp_path / "report.html", tmp_path / "profile", "--dump-dom").stdout
    assert seen.count('class="dot"') == 2 * 6, "once wide, once narrow"
    assert seen.count('scope="row"') == 2 * len(data["rows"]) - 1, "the floor has no speed"


LADDER = (
    ("q2_k", 2.625),
    ("iq3_s", 3.4375),
    ("iq4_xs", 4.25),
    ("q4_k", 4.5),
    ("q5_k", 5.5),
    ("q6_k", 6.5625),
)


SWAPS = [
    {
        "group": "ffn_down",
        "factor": 1.6,
        "changed": 14,
        "before": 0.05,
        "after": 0.046,
        "half": 0.001,
        "kept": True,
    },
    {
        "group": "attn_q",
        "factor": 0.62,
        "changed": 3,
        "before": 0.046,
        "after": 0.06,
        "half": None,
        "kept": False,
    },
]


SPEED = {
    "objective": "balanced",
    "floor": 45.0,
    "basis": "measured",
    "machine": "Some processor",
    "threads": 4,
    "error": 0.11,
    "rows": [
        {"name": "optimized", "bytes": 95e6, "kl": 0.021, "predicted": 46.1, "measured": 44.0},
        {"name": "Q4_K_M", "bytes": 104e6, "kl": 0.055, "predicted": 45.2, "measured": 47.5},
        {"name": "plain optimum", "bytes": 95e6, "kl": 0.02, "predicted": 40.0, "measured": None},
        {"name": "IQ4_XS", "bytes": None, "kl": None, "predicted": 39.0, "measured": 38.0},
    ],
    "curve": [
        {"tokens_per_second": 36.0 + i, "bytes": int(95e6 - 1e6 * i), "kl": 0.018 * 1.09**i}
        for i in range(15)
    ],
    "bytes": 95_400_000,
    "other_sizes": [
        {
            "bytes": size,
            "curve": [
                {"tokens_per_second": start + i, "bytes": size, "kl": kl * 1.09**i}
                for i in range(12)
            ],
        }
        for size, start, kl in ((81_000_000, 41.0, 0.034), (109_000_000, 33.0, 0.011))
    ],
}
"""What is said of speed: files as predicted and measured, and plans at every speed and size."""


@pytest.fixture
def optimized(data: dict[str, Any]) -> dict[str, Any]:
    """What `optimize` adds: two plans of a deep model, a curve, kinds of text, two trials."""
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

    def plan(name: str, spread: int) -> dict[str, Any]:
        made = [("token_embd.weight", 5)] + [
            (f"blk.{layer}.{kind}.weight", (layer // 6 + at * spread) % 6)
            for layer in range(30)
            for at, kind in enumerate(kinds)
        ]
        return {
            "name": name,
            "tensors": [
                {"name": t, "encoding": LADDER[k][0], "bits": LADDER[k][1]} for t, k in made
            ],
        }

    planned = [{"bytes": int(b * 1e6), "kl": 3.0 * 0.93 ** (b - 40)} for b in range(40, 271, 5)]
    presets = [
        {"name": n, "bytes": int(b * 1e6), "kl": 4.2 * 0.93 ** (b - 40)}
        for n, b in (
            ("IQ1_M", 47),
            ("Q2_K", 64),
            ("Q4_0", 91),
            ("IQ4_XS", 88),
            ("Q4_K_M", 104),
            ("Q6_K", 138),
        )
    ]
    by_kind = {"prose": 0.03, "code": 0.05, "chat": 0.02, "languages": 0.11}
    data["optimize"] = {
        "pictures": [plan("optimized", 1), plan("Q4_K_M", 0)],
        "curve": {"planned": planned, "presets": presets},
        "domains": {
            "windows": dict.fromkeys(by_kind, 3),
            "window": 512,
            "fitted": False,
            "rows": [
                {"name": "optimized", "kl": by_kind},
                {"name": "Q4_K_M", "kl": {k: 2 * v for k, v in by_kind.items()}},
            ],
        },
        "swaps": SWAPS,
        "speed": SPEED,
        "times": [_taken("calibrate", 71.0, 65.5), _taken("report", 3.0, None)],
    }
    return data


def _taken(stage: str, predicted: float, seconds: float | None) -> dict[str, Any]:
    return {
        "stage": stage,
        "predicted_seconds": predicted,
        "predicted_cpu_seconds": 2 * predicted,
        "seconds": seconds,
        "cpu_seconds": seconds and 2 * seconds,
    }


def test_what_flipped_is_shown_with_its_prompt_line_by_line(optimized: dict[str, Any]) -> None:
    flips = [
        TaskFlip(
            prompt=["First turn", "What is 3 < 4?"],
            expected="yes",
            reference=["A & B\n  yes"],
            answer=["no"],
            became=became,
            why="not yes",
        )
        for became in ("right", "wrong")
    ]
    score = asdict(TaskScore(name="turns", summary="", examples=2, flips=flips))
    lost = score | {"flips": score["flips"][:1]}
    optimized["rows"][0]["tasks"] = [score]
    why = "a budget < what holds"
    step = {"file_bytes": 7, "predicted": 0.5, "scores": [lost], "held": False}
    guard = {"why": why, "todo": "raise it", "steps": [step], "tolerances": {"turns": 0.05}}
    optimized["optimize"]["guard"] = guard
    page = report.html_page(optimized)
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and checker.outside == []
    part = page.partition("<h2>Behaviour</h2>")[2].partition("<h2>")[0]
    assert "2 of 2 flips</summary>" in part and ": 1 flip</summary>" in part
    assert part.index("turns: now wrong") < part.rindex("turns: now right"), "lost ones first"
    assert "First turn\nWhat is 3 &lt; 4?</dd>" in part and "A &amp; B\n  yes</dd>" in part
    assert (
        "A budget &lt; what holds; raise it. " in part
        and ": turns 5.<" in part
        and "&amp;lt;" not in part
    )
    assert part.count("the original&#x27;s answer: not yes") == 2, "whose answer is not right"


def test_an_optimization_shows_curve_plans_kinds_and_trials(optimized: dict[str, Any]) -> None:
    page = report.html_page(optimized)
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and checker.outside == []
    assert page.count('class="preset"') == 2 * (6 + 1), (
        "every preset and the legend, wide and narrow"
    )
    assert page.count('class="plan"') == 2 and "blk.29.ffn_down.weight: " in page
    assert "token_embd: Q6_K" in page and "Preset IQ4_XS: 88.0 MB, predicted" in page
    assert "0.11000" in page and "0.22000" in page and "3 of languages" in page
    assert "× 1.60" in page and "nothing was fitted to" in page
    speed = page.partition("<h2>Speed</h2>")[2].partition("<h2>")[0]
    assert speed.count('class="ring"') == 2 * (2 + 1), "what was measured, and the legend"
    assert speed.count('class="floor"') == 2 * (1 + 1) and "least speed, 45" in speed
    assert speed.count('class="sample"') == 2 * (2 + 1), "other sizes, and the legend"
    assert "Q4_K_M, 104.0 MB" in speed and ">81.0 MB<" in speed, "bytes are the third axis"
    times = page.partition("<h2>Time</h2>")[2].partition("</table>")[0]
    assert times.count("<tr>") == 2 and "calibrate" in times, "what has not ended has no row"
    assert all(words in times for words in ("1 min 11 s", "1 min 06 s", "2 min 22 s", "2 min 11 s"))
    optimized["optimize"] = {
        "pictures": [],
        "curve": {"planned": [], "presets": []},
        "domains": {},
        "swaps": [],
    }
    assert "<h2>The plan</h2>" not in report.html_page(optimized)


def test_cells_of_a_plan_can_be_read() -> None:
    """Contrast of letters on every colour, by WCAG: 4.5 at least."""
    from kanna.report.picture import _linear, shade

    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        red, green, blue = (_linear(int(digits[i : i + 2], 16) / 255) for i in (0, 2, 4))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for bits in (1.0, 1.56, 2.06, 2.6, 3.4, 4.25, 4.5, 5.5, 6.56, 8.5, 16.0, 32.0):
        dark, bright = sorted(map(light, shade(bits)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, bits


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("device", "width", "height"), [("desktop", 1280, 3700), ("phone", 390, 4600)]
)
def test_an_optimization_in_a_real_browser(
    optimized: dict[str, Any], tmp_path: Path, device: str, width: int, height: int, scheme: str
) -> None:
    report.write(optimized, tmp_path)
    look_at(tmp_path, f"optimize-{device}-{scheme}", width, height, scheme)
