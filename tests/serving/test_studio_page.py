"""The studio's page in a real Chromium: a model is dropped, and a file comes out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Browser
from helpers.page_checks import CONTRAST, FITS, SMALL
from helpers.studios import Studio
from report.test_report import data

from kanna import report
from kanna._util.atomic import write_json
from kanna.serving.studio.jobs import JobStore

__all__ = ["data"]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
READY = "document.querySelector('#known button')"
FITTED = "!document.querySelector('#make-form').hidden"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    empty = tmp_path_factory.mktemp("empty")
    running = Studio(tmp_path_factory.mktemp("studio") / "s", searched=empty)
    yield running
    running.stop()


@pytest.fixture
def here(browser: Browser, studio: Studio) -> Iterator[Browser]:
    """The page, opened by the address that `kanna studio` prints."""
    browser.open(studio.page)
    browser.until(READY)
    yield browser
    assert browser.complaints == []
    outside = [u for u in browser.requested if not u.startswith((studio.address, "about:"))]
    assert outside == []
    browser.js("sessionStorage.clear()")
    for job in studio.ask("GET", "/studio/jobs")["jobs"]:
        studio.ask("DELETE", f"/studio/jobs/{job['id']}")


def drop(browser: Browser, *paths: Path) -> None:
    """Drag files or a folder from the desktop to the page, and let them go."""
    box = browser.js(
        "(() => { const b = document.querySelector('#drop').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    data = {"items": [], "files": [str(p) for p in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)


def job_state(browser: Browser, state: str, timeout: float = 90) -> None:
    browser.until(f"document.querySelector('.job .badge.{state}')", timeout=timeout)


def click(browser: Browser, text: str, within: str = "body") -> None:
    browser.js(
        f"[...document.querySelectorAll('{within} :is(button, summary)')]"
        f".find((b) => b.checkVisibility() && b.textContent === '{text}').click()"
    )


def test_a_folder_is_dropped_and_one_key_makes_a_file(
    here: Browser, studio: Studio, llama: Path, tmp_path: Path
) -> None:
    """One drop and one key: the folder is copied, what fits is shown, Convert has the focus."""
    folder = tmp_path / "my-llama"
    shutil.copytree(llama, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("no part of the model")
    drop(here, folder)
    here.until(FITTED, timeout=60)
    assert here.js("document.activeElement.id") == "do-convert"
    badges = here.js("[...document.querySelectorAll('.preset .badge')].map((b) => b.textContent)")
    assert badges.count("Recommended") == 1 and set(badges) <= {"Recommended", "Fits", "Too large"}
    chosen = here.js("document.querySelector('.preset input:checked').value")
    here.press("Enter")
    job_state(here, "done")
    (job,) = studio.ask("GET", "/studio/jobs")["jobs"]
    made = Path(job["result"]["path"])
    assert made.name.endswith(f"-{chosen}.gguf") and made.stat().st_size > 100_000
    assert job["result"]["gate"] == "intact"
    assert "intact" in here.js("document.querySelector('.job .figures').innerText")
    uploaded = {p.name for p in Path(job["source"]).iterdir()}
    assert "config.json" in uploaded and not uploaded & {"pytorch_model.bin", "README.md"}

    click(here, "Commands", ".job")
    commands = here.js("[...document.querySelectorAll('.job .code pre')].map((p) => p.textContent)")
    assert commands[0] == job["command"] and "kanna.convert(" in commands[1]
    click(here, "Chat", ".job")
    here.until(f"document.querySelector('#chat-model').value === '{job['result']['model']}'")
    assert here.js("!document.querySelector('#view-chat').hidden")
    here.js("document.querySelector('#chat-max').value = '8'")
    here.js("document.querySelector('#chat-input').focus()")
    here.type("fox")
    here.press("Enter")
    here.until("document.querySelector('.turn.model .about span')", timeout=60)


def test_a_file_is_dropped_and_its_original_answers_beside_it(
    here: Browser, studio: Studio, smollm2: Path
) -> None:
    drop(here, smollm2)
    here.until(FITTED, timeout=60)
    here.js("document.querySelector('#verify').click()")
    here.js("document.querySelector('.preset input[value=Q4_0]').click()")
    click(here, "Convert", "#make-form")
    job_state(here, "done")
    click(here, "Beside the original", ".job")
    here.until("!document.querySelector('#view-compare').hidden")
    names = here.js("['a', 'b'].map((s) => document.querySelector(`#model-${s}`).value)")
    assert "(original)" in names[0] and "Q4_0" in names[1]
    here.js(
        "document.querySelector('#compare-max').value = '4';"
        "document.querySelector('#compare-input').value = 'Hello';"
        "document.querySelector('#compare-run').click()"
    )
    here.until("document.querySelector('#compare-run').textContent === 'Stop'")
    here.until("document.querySelector('#compare-run').textContent === 'Compare'", timeout=90)
    replies = here.js("['a', 'b'].map((s) => document.querySelector(`#reply-${s}`).innerText)")
    assert all(replies) and "notice" not in here.js("document.querySelector('.sides').innerHTML")


def test_optimize_runs_to_its_end_and_its_report_is_read(
    here: Browser, studio: Studio, llama: Path
) -> None:
    """From the button to the report: what it made, in how long, and the page that says so."""
    here.js(f"document.querySelector('#source').value = {str(llama)!r}")
    here.js("document.querySelector('#source-form').requestSubmit()")
    here.until(FITTED, timeout=60)
    here.js("document.querySelector('.preset input[value=Q4_K_M]').click()")
    here.js("document.querySelector('#make-options').open = true")
    chosen = {"effort": "fast", "tokens": "512", "windows": "1"}
    for name, value in chosen.items():
        here.js(f"document.querySelector('#{name}').value = {value!r}")
    click(here, "Optimize", "#make-form")
    whole = "document.querySelector('.job .now')?.textContent.includes('for the whole job')"
    here.until(whole, timeout=200)
    job_state(here, "done", timeout=280)
    (job,) = studio.ask("GET", "/studio/jobs")["jobs"]
    result = job["result"]
    made = Path(result["path"])
    assert made.stat().st_size == result["bytes"] and result["gate"] == "intact"
    assert result["kl"] >= 0 and "--effort fast" in job["command"]
    shown = here.js("document.querySelector('.job .figures').innerText")
    assert "KL divergence" in shown and "intact" in shown
    links = "[...document.querySelectorAll('.job a')]"
    here.open(here.js(f"{links}.find((a) => a.textContent === 'Report').href"))
    text = here.until("document.body.innerText")
    assert made.name in text or "llama" in text
    here.open(studio.page)


def test_a_job_is_watched_over_a_reload(here: Browser, smollm2: Path) -> None:
    here.js(f"document.querySelector('#source').value = {str(smollm2)!r}")
    here.js("document.querySelector('#source-form').requestSubmit()")
    here.until(FITTED, timeout=60)
    here.js("document.querySelector('#verify').click()")
    here.js("document.querySelector('.preset input[value=F32]').click()")
    click(here, "Convert", "#make-form")
    here.until("document.querySelector('.job .badge.running')")
    here.send("Page.reload")
    here.until("document.querySelector('.job .badge')", timeout=30)
    here.until(FITTED, timeout=60)  # the model is still the one chosen
    job_state(here, "done")
    assert here.js("document.querySelectorAll('.job').length") == 1


def test_cancel_and_delete_with_the_keyboard(here: Browser, studio: Studio, smollm2: Path) -> None:
    studio.start(verb="convert", source=str(smollm2), preset="F32")
    here.until("document.querySelector('.job progress')", timeout=30)
    here.js("document.querySelector('.job .bar button').focus()")
    here.js("new Promise((done) => setTimeout(done, 1200))")
    assert here.js("document.activeElement.textContent") == "Cancel", "it stays while figures move"
    here.press("Enter")
    job_state(here, "cancelled", timeout=30)
    click(here, "Delete", ".job")
    here.until("document.querySelector('#ask-dialog').open")
    here.js("document.querySelector('#ask-yes').focus()")
    here.press("Enter")
    here.until("!document.querySelector('.job')")
    assert studio.ask("GET", "/studio/jobs")["jobs"] == []


def test_everything_is_reached_with_a_keyboard(here: Browser, llama: Path) -> None:
    here.js(f"document.querySelector('#source').value = {str(llama)!r}")
    here.js("document.querySelector('#source').focus()")
    here.press("Enter")
    here.until(FITTED, timeout=60)
    here.js("document.querySelector('.skip').focus()")
    seen: list[str] = []
    for _ in range(24):
        here.press("Tab")
        seen.append(here.js("document.activeElement.id || document.activeElement.name || ''"))
    wanted = ["tab-studio", "key-button", "pick-file", "pick-folder", "source", "source-look"]
    wanted += ["format", "preset", "do-convert", "do-optimize", "do-compare"]
    assert [s for s in dict.fromkeys(seen) if s in wanted] == wanted, seen
    here.js("document.querySelector('.preset input:checked').focus()")
    before = here.js("document.querySelector('.preset input:checked').value")
    here.press("ArrowRight")
    assert here.js("document.querySelector('.preset input:checked').value") != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model.bin", "pickled", "Pickled files"),
        ("model.safetensors", "alone", "not one model"),
        ("broken.gguf", "GGUFnonsense", "GGUF"),
    ],
)
def test_what_cannot_be_used_says_why(
    here: Browser, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    drop(here, tmp_path / name)
    notice = here.until(
        "document.querySelector('#upload .notice.bad, #fit-state .notice')?.innerText",
        timeout=30,
    )
    assert message in notice
    assert here.js("document.querySelector('#make-form').hidden")


def test_without_its_key_the_studio_says_where_it_is(browser: Browser, studio: Studio) -> None:
    browser.open(studio.address)
    browser.js("sessionStorage.clear()")
    browser.open(studio.address)
    notice = browser.until("document.querySelector('#studio-state .notice')?.innerText")
    assert "has its key" in notice
    browser.js("document.querySelector('#studio-state .notice button').click()")
    browser.until("document.querySelector('#key-dialog').open")
    browser.type(studio.key)
    browser.press("Enter")
    browser.until(READY)
    assert studio.key not in browser.js("document.documentElement.outerHTML + location.href")
    browser.js("sessionStorage.clear()")


def test_the_gateway_alone_has_no_studio(tmp_path: Path) -> None:
    from helpers.replay_gateway import Replay, Running

    running = Running(Replay().app())
    try:
        import httpx

        assert "data-studio" not in httpx.get(running.address).text
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("device", "width", "height", "scheme"),
    [("desktop", 1280, 860, "light"), ("phone", 375, 812, "dark")],
)
def test_pictures(
    here: Browser,
    studio: Studio,
    llama: Path,
    smollm2: Path,
    device: str,
    width: int,
    height: int,
    scheme: str,
) -> None:
    """Nothing runs over the edge, everything can be hit and read; pictures to look at stay."""

    def take(name: str) -> None:
        assert here.js(FITS), f"{name} is wider than the window"
        assert here.js(CONTRAST) == []
        if device == "phone":
            assert here.js(SMALL) == [], f"{name} has targets too small to hit"
        here.picture(SCREENSHOTS / f"studio-{name}-{device}-{scheme}.png")

    here.open(studio.page, width=width, height=height, scheme=scheme)
    here.until(READY)
    take("empty")
    done: dict[str, Any] = studio.start(
        verb="convert", source=str(llama), preset="Q4_0", verify=False
    )
    studio.until(done, "done")
    failed = studio.start(verb="convert", source="/none", preset="Q4_0")
    studio.until(failed, "failed")
    running = studio.start(verb="convert", source=str(smollm2), preset="F32")
    here.js(f"document.querySelector('#source').value = {str(llama)!r}")
    here.js("document.querySelector('#source-form').requestSubmit()")
    here.until(FITTED, timeout=60)
    here.until("document.querySelector('.job progress')", timeout=20)
    take("fit")
    here.js("document.querySelectorAll('.job details').forEach((d) => { d.open = true; })")
    here.js("document.querySelector('#jobs').scrollIntoView()")
    take("jobs")
    here.js("document.querySelector('#make-options').open = true")
    here.js("document.querySelector('#do-convert').scrollIntoView({ block: 'center' })")
    take("options")
    studio.ask("POST", f"/studio/jobs/{running['id']}/cancel")


def test_the_report_of_a_job_is_read(
    browser: Browser, data: dict[str, Any], tmp_path: Path
) -> None:
    """A comparison that an earlier studio made; the report itself may do nothing but be read."""
    store = JobStore(tmp_path)
    job = store.add("compare", "builtin:smollm2-135m", {})
    out = store.folder(job) / "out" / "smollm2-135m-compare"
    out.mkdir(parents=True)
    report.write(data, out)
    write_json(store.folder(job) / "result.json", {"source": "x", "result": data})
    store.settle(job, "done")
    studio = Studio(tmp_path)
    try:
        browser.open(studio.page)
        links = "[...document.querySelectorAll('.job a')]"
        browser.until(f"{links}.length")
        address = browser.js(f"{links}.find((a) => a.textContent === 'Report').href")
        browser.open(address)
        assert "Q4_K_M" in browser.js("document.body.innerText")
        assert browser.js("document.styleSheets.length"), "its own style is let in"
        assert browser.complaints == []
        policy = studio.client.get(address).headers["content-security-policy"]
        assert "sandbox" in policy and "script" not in policy
    finally:
        studio.stop()
