"""What outlives a studio, and its parts without a server around them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from helpers.studios import Studio, workers

from kanna._util.atomic import write_json
from kanna.errors import KannaError, MissingError, UsageError
from kanna.serving.problems import ApiError
from kanna.serving.studio import archives, duration
from kanna.serving.studio.exports import call
from kanna.serving.studio.home import StudioHome
from kanna.serving.studio.jobs import MAX_ATTEMPTS, JobStore, StudioJob, model_name
from kanna.serving.studio.library import known_models
from kanna.serving.studio.outcomes import Outcomes
from kanna.serving.studio.runner import JobRunner

# What outlives a studio


def test_jobs_outlive_the_studio(smollm2: Path, llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "studio"
    first = Studio(folder)
    try:
        job = first.start(verb="convert", source=str(smollm2), preset="Q4_0", verify=False)
        later = first.start(verb="convert", source=str(llama), preset="Q8_0", verify=False)
        first.until_writing(job)
    finally:
        first.kill()
    end = time.monotonic() + 20
    while workers(folder):
        assert time.monotonic() < end, "the process of a job ends with the studio"
        time.sleep(0.1)
    second = Studio(folder)
    try:
        assert second.key == first.key, "a tab that is still open goes on"
        done = second.until(job, "done", "failed")
        assert done["state"] == "done" and Path(done["result"]["path"]).exists()
        assert second.until(later, "done", "failed")["state"] == "done"
    finally:
        second.stop()
    third = Studio(folder)
    try:
        states = {j["id"]: j["state"] for j in third.ask("GET", "/studio/jobs")["jobs"]}
        assert states == {job["id"]: "done", later["id"]: "done"}
        served = [m["id"] for m in third.ask("GET", "/v1/models")["data"]]
        assert len(served) == 2, "what was made before can be chatted with again"
    finally:
        third.stop()


def test_a_job_that_ends_the_machine_is_not_begun_for_ever(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.add("convert", "x", {"preset": "Q4_0"})
    for attempt in range(1, MAX_ATTEMPTS + 1):
        store = JobStore(tmp_path)
        job = store.find(job.id)
        assert job.state == "queued"
        job.state, job.attempts = "running", attempt
        store.save(job)
    job = JobStore(tmp_path).find(job.id)
    assert job.state == "failed" and job.error and "cut off 3 times" in job.error["found"]


def test_an_orderly_end_counts_as_no_attempt(smollm2: Path, tmp_path: Path) -> None:
    async def begin_and_stop() -> None:
        runner = JobRunner(store, lambda _: None)
        runner.start()
        while job.state != "running":
            await asyncio.sleep(0.02)
        await runner.stop()

    store = JobStore(tmp_path)
    job = store.add("convert", str(smollm2), {"preset": "F32"})
    asyncio.run(begin_and_stop())
    again = JobStore(tmp_path).find(job.id)
    assert (again.state, again.attempts) == ("queued", 0)
    assert workers(tmp_path) == []


def test_a_damaged_job_is_left_out(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    kept = store.add("convert", "x", {"preset": "Q4_0"})
    for name, text in (("torn", '{"id": "to'), ("other", '{"id": "kept"}'), ("list", "[]")):
        (tmp_path / "jobs" / name).mkdir()
        (tmp_path / "jobs" / name / "job.json").write_text(text)
    again = JobStore(tmp_path)
    assert list(again.jobs) == [kept.id]
    with pytest.raises(ApiError, match="no job"):
        again.find("torn")


def test_the_key_is_kept_and_its_files_are_the_owners(tmp_path: Path) -> None:
    home = StudioHome(tmp_path / "studio")
    key = home.key()
    assert StudioHome(tmp_path / "studio").key() == key
    assert (home.state / "key.txt").stat().st_mode & 0o077 == 0
    assert home.state.stat().st_mode & 0o077 == 0


def test_another_studio_that_is_gone_does_not_lock_a_folder(tmp_path: Path) -> None:
    home = StudioHome(tmp_path)
    with home.locked(), StudioHome(tmp_path).locked():
        pass  # the lock of this very process is no other's
    (home.state / "running.json").write_text('{"pid": 1, "since": 0}')
    with home.locked():
        pass
    first = psutil.Process(1)
    (home.state / "running.json").write_text(f'{{"pid": 1, "since": {first.create_time()!r}}}')
    with pytest.raises(KannaError, match="another studio"), home.locked():
        pass


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        StudioHome(tmp_path / "file")
    with pytest.raises(UsageError, match="is no folder"):
        StudioHome(tmp_path / "studio").check_searched([tmp_path / "file"])


# The parts


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("builtin:smollm2-135m", "smollm2-135m"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B@main", "Qwen3-0.6B"),
        ("/models/llama-Q8_0.gguf", "llama"),
        ("C:\\models\\llama-F16.gguf", "llama"),
        ("/m/big-Q4_K_M-00001-of-00003.gguf", "big"),
        ("/c/models--org--tiny-llama/snapshots/0123abcd/", "tiny-llama"),
        ("/models/a b$(rm)/", "a-b-rm"),
        ("/", "model"),
    ],
)
def test_names_of_models(source: str, name: str) -> None:
    assert model_name(source) == name


@pytest.mark.parametrize(
    ("verb", "options", "line"),
    [
        ("convert", {"preset": "Q4_0"}, "kanna convert 'a b' -o a-b-Q4_0.gguf --preset Q4_0"),
        (
            "convert",
            {"preset": "onnx:int4"},
            "kanna convert 'a b' -o a-b-onnx-int4 --preset onnx:int4",
        ),
        (
            "optimize",
            {"size": 95_000_000, "effort": "max"},
            "kanna optimize 'a b' -o a-b-optimize --size 95000000 --effort max",
        ),
        (
            "compare",
            {"presets": ["Q8_0", "Q4_0"]},
            "kanna compare 'a b' -o a-b-compare --presets Q8_0,Q4_0",
        ),
    ],
)
def test_exports(verb: str, options: dict[str, Any], line: str) -> None:
    job = StudioJob(id="x", verb=verb, source="a b", options=options)
    assert call(job).command() == line
    compile(call(job).python(), "snippet", "exec")


def test_where_no_engine_runs_the_original_a_copy_of_it_is_made(
    tmp_path: Path, llama: Path
) -> None:
    class Pool:
        models: dict[str, Any] = {}

        def add(self, spec: Any) -> None:
            raise MissingError("no runtime is installed")

    store = JobStore(tmp_path)
    outcomes = Outcomes(store, cast(Any, Pool()))
    job = store.add("convert", str(llama), {"preset": "Q4_0"})
    with pytest.raises(ApiError, match="not finished"):
        outcomes.original(job)
    write_json(store.folder(job) / "result.json", {"source": str(llama), "result": {}})
    store.settle(job, "done")
    copy = outcomes.original(job)
    assert isinstance(copy, StudioJob) and copy.original_of == job.id
    assert copy.verb == "convert" and copy.options == {"preset": "BF16"}
    assert outcomes.original(job) is copy, "once"


def test_archives_are_sent_in_parts_and_without_links(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(5 << 20))
    (folder / "leads-out").symlink_to("/etc/passwd")
    files = archives.files_of(folder)
    assert [*files] == ["made/weights"]
    sizes = [len(part) for part in archives.parts(files)]
    assert len(sizes) > 5 and max(sizes) < 2 << 20
    (folder / "weights").unlink()
    with pytest.raises(ApiError, match="no such files"):
        archives.files_of(folder)


def test_a_whole_job_is_estimated_from_an_earlier_one() -> None:
    steps = [("write", 10.0), ("verify", 20.0), ("write", 10.0), ("verify", 20.0)]
    assert duration.seconds_left({}, steps) is None
    first = {"steps": [], "stage": "write", "done": 5, "total": 10, "seconds": 10.0}
    assert duration.seconds_left(first, steps) == pytest.approx(10 + 2 * 50)  # half as fast
    later = {
        "steps": [{"stage": "write", "seconds": 10.0}, {"stage": "verify", "seconds": 20.0}],
        "stage": "verify",  # a step that comes before its turn
        "done": 0,
        "total": None,
        "seconds": 0.0,
    }
    assert duration.seconds_left(later, steps) == pytest.approx(30.0)
    for verb in ("convert", "compare", "optimize"):
        assert duration.usual(verb, {"effort": "max", "verify": True, "presets": ["a", "b"]})


def test_models_on_this_machine(llama: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    models = known_models(tmp_path, [llama.parent, tiny_gguf.parent])
    sources = [model.source for model in models]
    assert "builtin:smollm2-135m" in sources and str(tiny_gguf) in sources
    mine = next(model for model in models if model.source == str(llama))
    assert mine.num_bytes == (llama / "model.safetensors").stat().st_size
    assert len(set(sources)) == len(sources)
