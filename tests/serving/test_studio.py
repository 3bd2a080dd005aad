"""Jobs of the studio: the public verbs in processes of their own, and files that outlive them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import shlex
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from click.testing import CliRunner
from helpers.studios import Studio

from kanna._util.atomic import write_json
from kanna.cli.main import cli
from kanna.errors import KannaError, MissingError, UsageError
from kanna.serving.problems import ApiError
from kanna.serving.studio import archives, duration
from kanna.serving.studio.exports import call
from kanna.serving.studio.home import StudioHome
from kanna.serving.studio.jobs import MAX_ATTEMPTS, JobStore, StudioJob, model_name
from kanna.serving.studio.library import known_models
from kanna.serving.studio.outcomes import Outcomes
from kanna.serving.studio.runner import JobRunner
from kanna.serving.studio.uploads import UploadStore


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Iterator[Studio]:
    running = Studio(
        tmp_path_factory.mktemp("studio"), "--upload-limit", "40MB", searched=llama.parent
    )
    yield running
    running.stop()


# Who may ask

ROUTES = [
    ("GET", "/studio/state"),
    ("GET", "/studio/models"),
    ("POST", "/studio/fit"),
    ("GET", "/studio/jobs"),
    ("POST", "/studio/jobs"),
    ("GET", "/studio/jobs/x"),
    ("GET", "/studio/jobs/x/log"),
    ("DELETE", "/studio/jobs/x"),
    ("POST", "/studio/jobs/x/cancel"),
    ("POST", "/studio/jobs/x/again"),
    ("POST", "/studio/jobs/x/original"),
    ("POST", "/studio/uploads"),
    ("PUT", "/studio/uploads/x/model.gguf"),
    ("DELETE", "/studio/uploads/x"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_done_without_the_key(studio: Studio, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer kanna-00000000-no"}):
        answer = httpx.request(method, studio.address.rstrip("/") + path, headers=headers)
        assert answer.status_code == 401, answer.text


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Host": "evil.example"}, "host_not_allowed"),
    ],
)
def test_pages_of_others_cannot_start_a_job(
    studio: Studio, headers: dict[str, str], code: str
) -> None:
    body = {"verb": "convert", "source": "x", "preset": "Q4_0"}
    answer = studio.client.post("/studio/jobs", json=body, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == code


def test_the_key_is_kept_and_its_files_are_the_owners(tmp_path: Path) -> None:
    home = StudioHome(tmp_path / "studio")
    key = home.key()
    assert StudioHome(tmp_path / "studio").key() == key
    assert (home.state / "key.txt").stat().st_mode & 0o077 == 0
    assert home.state.stat().st_mode & 0o077 == 0


def test_one_studio_works_in_a_folder(studio: Studio) -> None:
    folder = Path(studio.ask("GET", "/studio/state")["folder"])
    done = CliRunner().invoke(cli, ["studio", str(folder), "--no-browser", "--port", "0"])
    assert done.exit_code == 1 and "another studio works in" in done.output


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        StudioHome(tmp_path / "file")
    with pytest.raises(UsageError, match="is no folder"):
        StudioHome(tmp_path / "studio").check_searched([tmp_path / "file"])


# A job from its start to what came out


def test_a_conversion_makes_the_file_that_the_exported_command_makes(
    studio: Studio, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = studio.start(verb="convert", source=str(llama), preset="Q4_0", verify=False)
    done = studio.until(job, "done", "failed")
    assert done["state"] == "done", done
    result = done["result"]
    made = Path(result["path"])
    assert made.name == "llama-Q4_0.gguf" and made.stat().st_size == result["bytes"]
    steps = studio.client.get(result["files"][0]["address"], headers={"Authorization": ""})
    assert steps.content == made.read_bytes(), "a link needs no key: its address holds a ticket"
    assert "attachment" in steps.headers["content-disposition"]
    monkeypatch.chdir(tmp_path)
    line = shlex.split(done["command"])
    again = CliRunner().invoke(cli, line[1:])
    assert again.exit_code == 0, again.output
    assert digest(tmp_path / line[line.index("-o") + 1]) == digest(made)
    (tmp_path / made.name).unlink()
    exec(compile(done["python"], "snippet", "exec"), {})
    assert digest(tmp_path / made.name) == digest(made)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_result_answers_beside_its_original(studio: Studio, llama: Path) -> None:
    job = studio.start(verb="convert", source=str(llama), preset="Q8_0", verify=False)
    name = studio.until(job, "done")["result"]["model"]
    answer = studio.ask("POST", f"/studio/jobs/{job['id']}/original")
    if answer["job"]:
        assert studio.until({"id": answer["job"]}, "done", "failed")["state"] == "done"
        answer = studio.ask("POST", f"/studio/jobs/{job['id']}/original")
    original = answer["model"]
    assert original and original != name
    texts: list[str] = []
    for model in (name, original):
        body = {"model": model, "prompt": "The quick brown", "max_tokens": 4, "temperature": 0}
        texts.append(studio.ask("POST", "/v1/completions", json=body)["choices"][0]["text"])
    assert all(texts)
    studio.ask("DELETE", f"/studio/jobs/{job['id']}")
    served = [m["id"] for m in studio.ask("GET", "/v1/models")["data"]]
    assert name not in served and original in served


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


@pytest.mark.parametrize(
    "name", ["", "../job.json", "..%2fjob.json", "nothing.gguf", "/etc/passwd"]
)
def test_files_are_those_of_the_job(studio: Studio, llama: Path, name: str) -> None:
    job = studio.start(verb="convert", source=str(llama), preset="Q4_0", verify=False)
    done = studio.until(job, "done")
    ticket = done["result"]["files"][0]["address"].split("/")[3]
    for path in (f"{ticket}/{name}", "x/llama-Q4_0.gguf"):
        address = f"{studio.address}studio/files/{path}"
        assert httpx.get(address, follow_redirects=True).status_code == 404
    studio.ask("DELETE", f"/studio/jobs/{job['id']}")


def test_a_folder_comes_as_one_archive(studio: Studio, llama: Path) -> None:
    job = studio.start(verb="convert", source=str(llama), preset="mlx:q4", verify=False)
    result = studio.until(job, "done")["result"]
    made = Path(result["path"])
    answer = httpx.get(f"{studio.address.rstrip('/')}{result['archive']}")
    assert answer.headers["content-disposition"].endswith(f"{made.name}.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        held = {n: archive.read(n) for n in archive.namelist()}
    files = {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    assert held == {f"{made.name}/{name}": data for name, data in files.items()}
    wrong = httpx.get(f"{studio.address}studio/archives/{'x' * 32}")
    assert wrong.status_code == 404
    studio.ask("DELETE", f"/studio/jobs/{job['id']}")


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


def test_estimates_are_those_of_fit(studio: Studio, llama: Path) -> None:
    import kanna

    answer = studio.ask("POST", "/studio/fit", json={"source": str(llama)})
    sizes = {row["preset"]: row["file_bytes"] for row in answer["rows"]}
    assert sizes == {row.preset: row.file_bytes for row in kanna.fit(llama).rows}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"verb": "convert", "source": "x", "preset": "Q4_NO"}, "Q4_NO"),
        ({"verb": "convert", "source": "x", "preset": "nothing:int4"}, "nothing"),
        ({"verb": "optimize", "source": "x", "preset": "Q4_0", "size": "much"}, "much"),
        ({"verb": "delete", "source": "x"}, "verb"),
        ({"verb": "convert", "source": ""}, "source"),
        ({"verb": "convert", "source": "x", "out": "/etc/passwd"}, "out"),
    ],
)
def test_what_no_verb_takes_is_refused_at_once(
    studio: Studio, body: dict[str, Any], message: str
) -> None:
    answer = studio.client.post("/studio/jobs", json=body)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_a_job_that_fails_says_what_to_do(studio: Studio, tmp_path: Path) -> None:
    job = studio.start(verb="convert", source=str(tmp_path / "none"), preset="Q4_0")
    failed = studio.until(job, "failed")
    assert "does not exist" in failed["error"]["found"] and failed["error"]["expected"]
    refused = studio.client.post("/studio/fit", json={"source": str(tmp_path / "none")})
    assert refused.status_code == 400 and "does not exist" in refused.json()["error"]["message"]


def test_a_cancelled_job_leaves_no_file_and_no_process(studio: Studio, smollm2: Path) -> None:
    job = studio.start(verb="convert", source=str(smollm2), preset="F32")
    waiting = studio.start(verb="convert", source=str(smollm2), preset="F16")
    studio.until_writing(job)
    assert studio.job(waiting)["state"] == "queued", "one job has the machine at a time"
    studio.ask("POST", f"/studio/jobs/{waiting['id']}/cancel")
    cancelled = studio.ask("POST", f"/studio/jobs/{job['id']}/cancel")
    assert cancelled["state"] == "cancelled" and studio.job(waiting)["state"] == "cancelled"
    folder = Path(studio.ask("GET", "/studio/state")["folder"]) / "jobs" / job["id"]
    assert list((folder / "out").iterdir()) == []
    assert workers(folder) == []
    for one in (job, waiting):
        studio.ask("DELETE", f"/studio/jobs/{one['id']}")
    assert not folder.exists()


def workers(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
        and "kanna.serving.studio.worker" in " ".join(process.info["cmdline"])
    ]


def test_jobs_outlive_the_studio(smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "studio"
    first = Studio(folder)
    try:
        job = first.start(verb="convert", source=str(smollm2), preset="Q4_0", verify=False)
        later = first.start(verb="convert", source=str(smollm2), preset="Q8_0", verify=False)
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


# Uploads


def test_a_model_arrives_file_by_file(studio: Studio, llama: Path) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    files = [{"name": n, "bytes": (llama / n).stat().st_size} for n in names]
    upload = studio.ask("POST", "/studio/uploads", json={"files": files})["id"]
    wrong = studio.client.put(f"/studio/uploads/{upload}/config.json", content=b"{}")
    assert wrong.status_code == 400 and "differs" in wrong.json()["error"]["message"]
    other = studio.client.put(f"/studio/uploads/{upload}/other.json", content=b"{}")
    assert other.status_code == 404
    answers = [
        studio.ask("PUT", f"/studio/uploads/{upload}/{n}", content=(llama / n).read_bytes())
        for n in names
    ]
    assert [bool(a["source"]) for a in answers] == [False, False, False, True]
    source = answers[-1]["source"]
    assert {p.name for p in Path(source).iterdir()} == set(names)
    assert studio.ask("POST", "/studio/fit", json={"source": source})["rows"]
    assert source in [m["source"] for m in studio.ask("GET", "/studio/models")["models"]]


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"a.gguf": 50_000_000}, 413),
        ({"a.bin": 1}, 400),
        ({"../a.gguf": 1}, 400),
        ({"a/b.gguf": 1}, 400),
        ({".hidden.gguf": 1}, 400),
        ({"a.safetensors": 1}, 400),
        ({"config.json": 1}, 400),
        ({"a.gguf": 1, "b.gguf": 1}, 400),
        ({"a.gguf": 1, "config.json": 1, "a.safetensors": 1}, 400),
    ],
)
def test_what_is_no_model_does_not_arrive(
    studio: Studio, files: dict[str, int], status: int
) -> None:
    body = {"files": [{"name": n, "bytes": size} for n, size in files.items()]}
    answer = studio.client.post("/studio/uploads", json=body)
    assert answer.status_code == status and answer.json()["error"]["todo"]


def test_an_upload_that_was_cut_off_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    root = Path(studio.ask("GET", "/studio/state")["folder"]) / "uploads"
    before = set(root.iterdir())
    file = {"name": "a.gguf", "bytes": 1000}
    upload = studio.ask("POST", "/studio/uploads", json={"files": [file]})["id"]

    def half() -> Iterator[bytes]:
        yield b"x" * 500
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        studio.client.put(f"/studio/uploads/{upload}/a.gguf", content=half())
    studio.ask("DELETE", f"/studio/uploads/{upload}")
    assert set(root.iterdir()) == before
    (tmp_path / "left.partial").mkdir()
    UploadStore(tmp_path, 1)
    assert list(tmp_path.iterdir()) == [], "and one of an earlier run neither"


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


def test_models_on_this_machine(llama: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    models = known_models(tmp_path, [llama.parent, tiny_gguf.parent])
    sources = [model.source for model in models]
    assert "builtin:smollm2-135m" in sources and str(tiny_gguf) in sources
    mine = next(model for model in models if model.source == str(llama))
    assert mine.num_bytes == (llama / "model.safetensors").stat().st_size
    assert len(set(sources)) == len(sources)


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
