"""A stub of what Azure ML and Azure Blob answer: not the service, which needs an account.

It listens on loopback and answers what azure-ai-ml 1.35 asks for one command or pipeline job, in
the shapes of the REST API (2023-04-01 and newer, run history 1.0, data 1.0, Blob 2021). Files are
kept, and a job goes through its states one by one, each time it is asked for; those of a pipeline
go through them with it.
"""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WORKSPACE = (
    "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/edge"
    "/providers/Microsoft.MachineLearningServices/workspaces/models"
)
OUTPUT = "azureml://locations/westeurope/workspaces/2222/data/run/versions/1"
ACCOUNT = "modelsstorage"
REGION = "https://westeurope.api.azureml.ms"
NAMES = [
    "install=https://wheels.example/kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl",
    "subscription=11111111-1111-1111-1111-111111111111",
    "resource_group=edge",
    "workspace=models",
]
"""What is set of the executor, for the stub's workspace."""
SYSTEM = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "a test", "createdByType": "User"}
Answer = tuple[int, Any]


@dataclass(kw_only=True)
class AzureStub:
    """What the service has.

    Attributes:
        states: Of a job, in order; it stays in the last one.
        log: What a job prints.
        error: Why a job failed.
        refusal: What a submission is answered with, if not with a job.
        assets: By their path below the workspace.
        blobs: By container and name.
        metadata: Of blobs.
        calls: How often something was asked for.
        unreachable: Whether no request gets there any more.
        rounds: How often the state of the job was asked for.
        unknown: What was asked for that a stub of a job does not answer.
        broken: Jobs of a pipeline that fail, by name; those that need them never begin.
        output: Files of the output of a job, by their paths in it.
    """

    states: list[str] = field(default_factory=lambda: ["Queued", "Running", "Completed"])
    log: str = "convert: Q8_0\n2 steps run\n"
    error: str = ""
    refusal: Answer | None = None
    assets: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    blobs: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    calls: Counter[str] = field(default_factory=Counter[str])
    unknown: list[str] = field(default_factory=list[str])
    unreachable: bool = False
    rounds: int = 0
    broken: set[str] = field(default_factory=set[str])
    output: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    def state(self) -> str:
        """The state of the job now."""
        return self.states[min(self.rounds, len(self.states) - 1)]

    def answer(self, method: str, host: str, path: str, body: bytes) -> Answer:
        """What a request that is no blob's is answered with."""
        if host == "management.azure.com" and path.lower().startswith(WORKSPACE.lower()):
            rest = path[len(WORKSPACE) :].strip("/")
            found = self._resource(method, rest, json.loads(body) if body else {})
        elif "/history/v1.0" in path and path.endswith("/details"):
            found = self._details(path)
        elif "/history/v1.0" in path and path.endswith("/children"):
            found = 200, {"value": self._children(path.split("/")[-2])}
        elif path.endswith("/rundata"):
            made = {"run": {"assetId": OUTPUT, "type": "uri_folder"}}
            found = 200, {"runMetadata": {"outputs": made if self.output else {}}}
        elif path.endswith("/dataversion/batchGetResolvedUris"):
            place = WORKSPACE.replace("/providers/Microsoft.MachineLearningServices", "")
            uri = f"azureml:/{place}/datastores/workspaceblobstore/paths/outputs/run"
            found = 200, {"values": {OUTPUT: {"uri": uri, "type": "uri_folder"}}}
        elif path == "/discovery":
            found = 200, {"api": REGION}
        elif path.endswith("/log.txt"):
            found = 200, self.log.encode()
        elif host == "management.azure.com":
            found = _absent("ResourceNotFound", f"The Resource '{path}' was not found.")
        else:
            found = None
        if found is None:
            self.unknown.append(f"{method} {host}{path}")
            return _absent("NotFound", path)
        return found

    def _resource(self, method: str, rest: str, body: dict[str, Any]) -> Answer | None:
        kind = rest.partition("/")[0]
        self.calls[f"{method} {kind or 'workspace'}"] += 1
        if not rest:
            return 200, _workspace()
        if rest == "datastores":  # the default one
            return 200, {"value": [_resource("datastores/workspaceblobstore", _DATASTORE)]}
        if rest == "datastores/workspaceblobstore":
            return 200, _resource(rest, _DATASTORE)
        if rest == "datastores/workspaceblobstore/listSecrets":
            return 200, {"secretsType": "Sas", "sasToken": "sv=2021-08-06&sig=c3R1Yg%3D%3D"}
        if match := re.fullmatch(r"codes/([^/]+)/versions/([^/]+)/startPendingUpload", rest):
            place = f"https://{ACCOUNT}.blob.core.windows.net/{match[1]}"
            sas = {"sasUri": f"{place}?sv=2021-08-06&sig=c3R1Yg%3D%3D", "credentialType": "SAS"}
            return 200, {
                "pendingUploadId": "1",
                "pendingUploadType": "TemporaryBlobReference",
                "blobReferenceForConsumption": {
                    "blobUri": place,
                    "storageAccountArmId": f"/storageAccounts/{ACCOUNT}",
                    "credential": sas,
                },
            }
        if re.fullmatch(r"\w+/[^/]+/versions", rest):
            return 200, {"value": []}
        if rest.startswith("jobs/"):
            return self._job(method, rest, body)
        if method == "PUT":
            self.assets[rest] = _resource(rest, body["properties"])
            return 201, self.assets[rest]
        if rest in self.assets:
            return 200, self.assets[rest]
        return _absent("NotFound", f"{rest} is not in the workspace")

    def _job(self, method: str, rest: str, body: dict[str, Any]) -> Answer:
        if rest.endswith("/cancel"):
            self.states, self.rounds = ["CancelRequested", "Canceled"], 0
            return 200, {}
        if method == "PUT":
            if self.refusal:
                return self.refusal
            self.rounds = 0
            studio = {"endpoint": f"https://ml.azure.com/runs/{rest[5:]}", "type": "Studio"}
            self.assets[rest] = _resource(rest, body["properties"])
            self.assets[rest]["properties"]["services"] = {"Studio": studio}
        if rest not in self.assets:
            return _absent("NotFound", f"{rest} is not in the workspace")
        self.assets[rest]["properties"]["status"] = self.state()
        return 200, self.assets[rest]

    def _details(self, path: str) -> Answer:
        name = path.split("/")[-2]
        now = self.state()
        self.rounds += 1
        about: dict[str, Any] = {"runId": name, "status": now, "logFiles": {}}
        if now != "Queued":
            about["logFiles"] = {"user_logs/std_log.txt": f"https://logs.example/{name}/log.txt"}
        if now == "Failed":
            about["error"] = {"error": {"code": "UserError", "message": self.error}}
        return 200, about

    def _children(self, name: str) -> list[dict[str, Any]]:
        """The jobs of a pipeline that have begun: the first two rounds have one more each."""
        jobs: dict[str, Any] = self.assets[f"jobs/{name}"]["properties"].get("jobs", {})
        lost, children = set(self.broken), list[dict[str, Any]]()
        ended = self.state() in ("Completed", "Failed")
        for number, (title, job) in enumerate(jobs.items()):
            needs = re.findall(r"parent\.jobs\.(\w+)\.", json.dumps(job["inputs"]))
            if not lost.isdisjoint(needs):
                lost.add(title)
            elif ended or number < self.rounds:
                state = "Failed" if title in self.broken else "Completed"
                about = {"runId": f"{name}-{number}", "displayName": title, "parentRunId": name}
                children.append({**about, "status": state if ended else "Running"})
        return children

    def blob(self, method: str, path: str, query: dict[str, Any], request: Any) -> Answer:
        """What Azure Blob answers: put, set metadata, head."""
        names = {k.lower(): v for k, v in request.headers.items()}
        given = {k[10:]: v for k, v in names.items() if k.startswith("x-ms-meta-")}
        if method == "PUT":
            if query.get("comp") == ["metadata"]:
                self.metadata[path] = given
                return 200, b""
            if query.get("comp") == ["block"]:
                self.blobs.setdefault(f"{path}?{query['blockid'][0]}", request.content)
                return 201, b""
            self.blobs[path] = request.content
            self.metadata[path] = given
            return 201, b""
        if path in self.blobs:
            return 200, b"" if method == "HEAD" else self.blobs[path]
        if query.get("comp") == ["list"]:
            listed = "".join(
                f"<Blob><Name>outputs/run/{name}</Name><Properties>"
                f"<Content-Length>{len(data)}</Content-Length><BlobType>BlockBlob</BlobType>"
                "</Properties></Blob>"
                for name, data in self.output.items()
                if query.get("prefix") == ["outputs/run"]
            )
            return 200, (
                '<?xml version="1.0"?><EnumerationResults>'
                f"<Blobs>{listed}</Blobs></EnumerationResults>"
            ).encode()
        if (data := self.output.get(path.partition("/outputs/run/")[2])) is not None:
            return 200, data
        return 404, b""


_DATASTORE = {
    "datastoreType": "AzureBlob",
    "accountName": ACCOUNT,
    "containerName": "blobs",
    "endpoint": "core.windows.net",
    "protocol": "https",
    "isDefault": True,
    "credentials": {"credentialsType": "AccountKey"},
}


def _resource(rest: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{WORKSPACE}/{rest}",
        "name": rest.split("/")[-1],
        "type": f"Microsoft.MachineLearningServices/workspaces/{rest.partition('/')[0]}",
        "properties": {**properties, "provisioningState": "Succeeded"},
        "systemData": SYSTEM,
    }


def _workspace() -> dict[str, Any]:
    about = _resource("", {"discoveryUrl": f"{REGION}/discovery", "workspaceId": "2222"})
    return {**about, "id": WORKSPACE, "name": "models", "location": "westeurope", "tags": {}}


def _absent(code: str, message: str) -> Answer:
    return 404, {"error": {"code": code, "message": message}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: AzureStub
    content = b""

    def _perform(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        _, host, path = unquote(parts.path).split("/", 2)
        if ".blob." in host:
            query = parse_qs(parts.query)
            code, body = self.stub.blob(self.command, path, query, self)
            headers = {"x-ms-version": "2021-08-06", "x-ms-blob-type": "BlockBlob"}
            headers["ETag"] = '"0x1"'
            kind = "xml" if query.get("comp") == ["list"] else "octet-stream"
            headers["Content-Type"] = f"application/{kind}"
            headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
            told = self.stub.metadata.get(path, {}) if self.command != "PUT" else {}
            headers |= {f"x-ms-meta-{name}": value for name, value in told.items()}
            if self.headers.get("x-ms-range") and code == 200:
                code, whole = 206, max(len(body), 1)
                headers["Content-Range"] = f"bytes 0-{whole - 1}/{whole}"
            if code == 404:
                headers["x-ms-error-code"] = "BlobNotFound"
        else:
            code, body = self.stub.answer(self.command, host, f"/{path}", self.content)
            headers = {"Content-Type": "application/json"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = _perform  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def token() -> tuple[str, int]:
    """A token that is none: what it says is read, and nobody signed it; and when it runs out."""
    said = ({"alg": "none"}, {"aud": "https://ml.azure.com", "tid": "3333"})
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in said]
    return f"{'.'.join(parts)}.", int(time.time()) + 3600


@contextmanager
def serving(stub: AzureStub) -> Generator[str]:
    """The URL of a stub while it answers; below it is the host that is asked."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
