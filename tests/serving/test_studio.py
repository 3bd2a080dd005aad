"""Jobs of a studio that runs: the public verbs in processes of their own, and what is dropped."""

from __future__ import annotations

import hashlib
import io
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from helpers.studios import Studio, workers

from kanna.cli.main import cli
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


def test_one_studio_works_in_a_folder(studio: Studio) -> None:
    folder = Path(studio.ask("GET", "/studio/state")["folder"])
    done = CliRunner().invoke(cli, ["studio", str(folder), "--no-browser", "--port", "0"])
    assert done.exit_code == 1 and "another studio works in" in done.output


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


def test_files_are_those_of_the_job(studio: Studio, llama: Path) -> None:
    job = studio.start(verb="convert", source=str(llama), preset="Q4_0", verify=False)
    done = studio.until(job, "done")
    ticket = done["result"]["files"][0]["address"].split("/")[3]
    names = ("", "../job.json", "..%2fjob.json", "nothing.gguf", "/etc/passwd")
    for path in (*(f"{ticket}/{name}" for name in names), "x/llama-Q4_0.gguf"):
        address = f"{studio.address}studio/files/{path}"
        assert httpx.get(address, follow_redirects=True).status_code == 404, path
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
