"""Classes of vulnerability that were published for programs like ours, where no other file has one.

docs/security.md lists all of them, with the test that holds each.
"""

from __future__ import annotations

import ast
import http.client
import json
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts, stub_hub
from helpers.gateways import Local, local
from helpers.packing import run
from helpers.tiny_models import make

from kanna.serving.constraints import checker
from kanna.sources import hub

SOURCE = Path(__file__).parents[2] / "src" / "kanna"
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

# Reading some of these runs code that their writer chose; the others lead to one of them.
RUN_CODE = {
    "cloudpickle",
    "dill",
    "joblib",
    "multiprocessing",
    "pickle",
    "shelve",
    "xmlrpc",
    "zmq",
}
JAIL = "tasks/code/jail.py"
"""Runs the programs that models write, in a process that can do no harm: tests/tasks/code."""
MARSHAL = {"serving/body_worker.py", "serving/large_bodies.py"}
"""The two ends of a pipe between a gateway and its own child."""


def _names(path: Path) -> tuple[set[str], set[str]]:
    """Packages that a file imports; what it calls, and what it calls it with."""
    imported, called = set[str](), set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            if isinstance(node.func, (ast.Name, ast.Attribute)):
                called.add(ast.unparse(node.func))
            called |= {
                f"{k.arg}={k.value.value}"
                for k in node.keywords
                if isinstance(k.value, ast.Constant)
            }
    return imported, called


def test_nothing_is_read_that_runs_code_when_it_is_read() -> None:
    """No pickles, neither from files nor between processes, and no code of a model's folder."""
    refused = {
        "torch.load",
        "yaml.load",
        "eval",
        "exec",
        "allow_pickle=True",
        "weights_only=False",
        "trust_remote_code=True",
    }
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE).as_posix()
        imported, called = _names(path)
        assert not imported & RUN_CODE, place
        assert "marshal" not in imported or place in MARSHAL, place
        assert not called & refused - ({"eval", "exec"} if place == JAIL else set()), place


@pytest.fixture(scope="module")
def with_code(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's folder with code that leaves a mark, and the mark."""
    home = tmp_path_factory.mktemp("code")
    folder, mark = home / "model", home / "mark"
    folder.mkdir()
    make("smollm", folder)
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for module in ("modeling_own", "configuration_own", "tokenization_own", "__init__", "setup"):
        (folder / f"{module}.py").write_text(code)
    for file, name in (
        ("config.json", "modeling_own.OwnForCausalLM"),
        ("tokenizer_config.json", "tokenization_own.OwnTokenizer"),
    ):
        config = json.loads((folder / file).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
        entries = (
            dict.fromkeys(kinds[:3], name) if file == "config.json" else {kinds[3]: [name, None]}
        )
        config |= {"auto_map": entries, "trust_remote_code": True}
        (folder / file).write_text(json.dumps(config))
    return folder, mark


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{}"),
        ("convert", "{}", "-o", "{out}.gguf", "--preset", "Q8_0"),
        ("evaluate", "{}", "--reference", "{}"),
    ],
    ids=lambda words: "-".join(words).replace("{}", ""),
)
def test_code_of_a_folder_is_never_run(
    words: tuple[str, ...], with_code: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, mark = with_code
    done = run(*(w.format(folder, out=tmp_path / "out") for w in words))
    assert "failed unexpectedly" not in done.output
    assert not mark.exists()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """llama.cpp behind the gateway."""
    artefact = engine_artefacts.shared("gguf", tmp_path_factory)
    with local(artefact, tmp_path_factory.mktemp("published"), replay=False) as running:
        yield running


def _said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return _said("a") | {"response_format": form}


FETCHES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "a picture": (CHAT, lambda url: _said([{"type": "image_url", "image_url": {"url": url}}])),
    "a sound": (CHAT, lambda url: _said([{"type": "input_audio", "input_audio": {"data": url}}])),
    "a video": (CHAT, lambda url: _said([{"type": "video_url", "video_url": {"url": url}}])),
    "a document": (CHAT, lambda url: _said([{"type": "file", "file": {"file_data": url}}])),
    "a schema elsewhere": (CHAT, lambda url: _schema({"$ref": url})),
    "a schema of a schema": (CHAT, lambda url: _schema({"$schema": url, "type": "object"})),
    "the name of a schema": (CHAT, lambda url: _schema({"$id": url, "$ref": "#/$defs/a"})),
    "a parameter of a tool": (
        CHAT,
        lambda url: (
            _said("a")
            | {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}
                ]
            }
        ),
    ),
    "a model": (COMPLETION, lambda url: {"model": url, "prompt": "a", "max_tokens": 1}),
    "an adapter": (
        COMPLETION,
        lambda url: {"prompt": "a", "max_tokens": 1, "lora": [{"path": url, "scale": 1}]},
    ),
    "a prompt": (COMPLETION, lambda url: {"prompt": url, "max_tokens": 1}),
    "media of llama.cpp's": (
        COMPLETION,
        lambda url: {
            "prompt": {"prompt_string": "<__media__>", "multimodal_data": [url]},
            "max_tokens": 1,
        },
    ),
}


@contextmanager
def _listening() -> Generator[tuple[str, list[str]]]:
    """The address of a server, and what it was asked."""
    asked = list[str]()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('authorization', '')}")
            self.send_error(404)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.json", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_request_makes_the_gateway_fetch_anything(gateway: Local) -> None:
    """Addresses in a request are text."""
    with _listening() as (url, asked):
        for name, (path, body) in FETCHES.items():
            status, answer = gateway.post(path, body(url))
            assert status in (200, 400, 404), (name, answer)
        assert not asked


PLACEHOLDERS = [
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|image|><image><start_of_image><|video_pad|>",
    "<__media__>",
    "<0x-1><0x100><unused99>",
]
EMPTY: list[Any] = ["", [], [[]], [""], None, " "]


def test_a_prompt_that_names_pictures_or_is_empty_ends_no_engine(gateway: Local) -> None:
    before = gateway.main.pid
    for text in PLACEHOLDERS:
        assert gateway.post(CHAT, _said(text))[0] == 200, text
        assert gateway.post(COMPLETION, {"prompt": text, "max_tokens": 1})[0] == 200, text
    for prompt in EMPTY:
        status, answer = gateway.post(COMPLETION, {"prompt": prompt, "max_tokens": 1})
        assert status in (200, 400), (prompt, answer)
    assert gateway.post(COMPLETION, {"prompt": "a", "max_tokens": 1})[0] == 200
    assert gateway.main.pid == before


ERRORS: list[tuple[str, Any]] = [
    (CHAT, _said([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])),
    (CHAT, _said("x " * 3000)),
    (CHAT, _schema({"type": 5})),
    (COMPLETION, {"prompt": "a", "grammar": "root ::= ("}),
    (COMPLETION, {"prompt": [10**6]}),
    (COMPLETION, {"prompt": "a", "model": "/etc/passwd"}),
    (COMPLETION, b"{"),
    (COMPLETION, b"\xff\xfe"),
    ("/v1/embeddings", {"input": ["x " * 3000]}),
    ("/detokenize", {"tokens": [10**6]}),
    ("/nowhere", {}),
]


def test_an_error_tells_nothing_of_the_machine(gateway: Local) -> None:
    """No address in memory, no path, no port of an engine, no line of our code."""
    backend = gateway.main
    secrets = [str(gateway.folder), str(backend.config.path), str(SOURCE), str(backend.url)]
    for path, body in ERRORS:
        status, answer = gateway.post(path, body)
        assert 400 <= status < 500, (path, answer)
        text = json.dumps(answer)
        assert not re.search(r"0x[0-9a-f]{6,}|Traceback|\.py\b|line \d+, in", text), text
        assert not [secret for secret in secrets if secret in text], text


@pytest.fixture(scope="module")
def locked(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A gateway that wants keys, and has none."""
    with local(tiny_gguf, tmp_path_factory.mktemp("locked"), settings={"keys": True}) as running:
        yield running


PUBLIC = {"/health", "/ready"}
"""Routes that say of the gateway no more than whether it is up."""
NO_KEYS = ["", "Bearer", "Bearer ", "Bearer null", "Bearer kanna-00000000-no", "Basic YTph", "x"]


def _ask(gateway: Local, method: str, target: str, headers: dict[str, str]) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)) as connection:
        connection.request(method, target, "{}", {"content-type": "application/json"} | headers)
        return connection.getresponse().status


def test_every_route_wants_a_key(locked: Local) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", locked.port, timeout=20)) as connection:
        connection.request("GET", "/openapi.json")
        paths = json.loads(connection.getresponse().read())["paths"]
    routes = [(m.upper(), re.sub(r"\{\w+\}", "m", p)) for p in paths for m in paths[p]]
    assert len(routes) >= 15
    for method, path in routes:
        if path not in PUBLIC:
            for key in NO_KEYS:
                status = _ask(locked, method, path, {"authorization": key} if key else {})
                assert status == 401, (method, path, key, status)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health;/v1/models",
        "/v1/models?/health",
        "/v1/%6dodels",
        "http://localhost/v1/models",
        "/page/../v1/models",
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost/health"},
        {"host": "localhost", "x-forwarded-prefix": "/health", "x-original-url": "/health"},
        {"host": "localhost", "x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1"},
    ],
    ids=lambda headers: "-".join(headers),
)
def test_no_way_to_write_a_target_leads_past_the_keys(
    locked: Local, target: str, headers: dict[str, str]
) -> None:
    assert _ask(locked, "GET", target, headers) in (400, 401, 403, 404)


def test_verdicts_of_schemas_are_kept_up_to_a_number_and_on_no_disk(
    gateway: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "_MAX_KNOWN", 3)
    kept: Any = checker.ConstraintChecker()
    for number in range(6):
        kept._keep(bytes([number]), "")
    assert [*kept._known] == [b"\3", b"\4", b"\5"]
    before = {p for p in gateway.folder.rglob("*") if "sqlite" not in p.name}
    for number in range(6):
        assert gateway.post(CHAT, _schema({"const": f"{tmp_path.name} {number}"}))[0] == 200
    assert {p for p in gateway.folder.rglob("*") if "sqlite" not in p.name} == before


def test_a_token_of_the_hub_goes_to_the_hub_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to where an answer sends its reader, as to the stores of large files."""
    monkeypatch.setenv("HF_TOKEN", "hf_precious")
    with stub_hub.serving() as served, _listening() as (url, asked):
        send, names = stub_hub.Handler.send, list[str]()

        def elsewhere(self: Any, status: int, data: bytes, headers: Any, **about: Any) -> None:
            names.append(self.headers.get("authorization", ""))
            if self.path.endswith("config.json"):
                away = url.replace("127.0.0.1", "localhost")
                status, data, about = 302, b"", {}
                headers = headers | {"Location": away, "WWW-Authenticate": f'Bearer realm="{away}"'}
            send(self, status, data, headers, **about)

        monkeypatch.setattr(stub_hub.Handler, "send", elsewhere)
        served.files["owner/tiny", "main"] = {"config.json": b"{}", "model.safetensors": b"{}"}
        stub_hub.use(served, tmp_path / "cache", monkeypatch)
        with pytest.raises(Exception):  # noqa: B017, PT011  # there is nothing at that place
            hub.fetch(hub.look_up("owner/tiny", None), ["config.json"])
        assert names and asked
        assert not [line for line in asked if "hf_precious" in line]
