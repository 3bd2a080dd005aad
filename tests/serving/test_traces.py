"""Traces as a collector gets them."""

from __future__ import annotations

import importlib.util
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway_process import MESSAGES, start, stop

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry") is None
    or importlib.util.find_spec("opentelemetry.sdk") is None,
    reason="the extra otel is not installed",
)


def test_a_request_is_a_span_below_its_callers(smollm2: Path, tmp_path: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    running = start(
        smollm2, tmp_path, "--traces", f"http://127.0.0.1:{collector.server_port}/v1/traces"
    )
    try:
        parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
        client = running.client(default_headers={"traceparent": parent})
        for stream in (False, True):
            answer: Any = client.chat.completions.create(
                model="small", messages=MESSAGES, max_tokens=3, stream=stream
            )
            if stream:
                list(answer)
        with urllib.request.urlopen(running.url + "/health"):
            pass
    finally:
        stop(running)  # sends what is left
        collector.shutdown()
    spans: list[Any] = []
    for data in got:
        message = ExportTraceServiceRequest.FromString(data)
        spans += [s for r in message.resource_spans for c in r.scope_spans for s in c.spans]
    assert len(spans) == 2
    for span in spans:
        facts = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
        assert span.name == "POST /v1/chat/completions"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
        assert facts["gen_ai.request.model"] == "small" and facts["gen_ai.usage.output_tokens"] == 3
        assert facts["http.response.status_code"] == 200 and facts["gen_ai.usage.input_tokens"] > 5
        assert span.end_time_unix_nano > span.start_time_unix_nano
    assert b"Say hello" not in b"".join(got)
