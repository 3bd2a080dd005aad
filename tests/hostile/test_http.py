"""What is no request, or no honest one: 4xx at once, no traceback, and others do not notice."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.gateways import Local, local

HEAD = b"Host: localhost\r\nConnection: close\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HEAD


def _post(body: bytes, path: bytes = b"/v1/completions") -> bytes:
    return (
        b"POST " + path + b" HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


def _completion(more: bytes) -> bytes:
    return _post(b'{"model":"m","prompt":"a","max_tokens":1,' + more + b"}")


MALFORMED = {
    "a bracket as a host": (GET + b"Host: [::1\r\nConnection: close\r\n\r\n", 400),
    "a host with a user": (GET + b"Host: a@localhost:1:2\r\nConnection: close\r\n\r\n", 400),
    "a host of bytes": (GET + b"Host: \xff\xfe\r\nConnection: close\r\n\r\n", 400),
    "a port of letters": (GET + b"Host: localhost:http\r\nConnection: close\r\n\r\n", 400),
    "two hosts": (GET + HEAD + b"Host: evil\r\n\r\n", 400),
    "a bracket as an origin": (POST + b"Origin: http://[\r\nContent-Length: 0\r\n\r\n", 400),
    "an origin with a path": (POST + b"Origin: http://a/b\r\nContent-Length: 0\r\n\r\n", 400),
    "two origins": (POST + b"Origin: null\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n", 400),
    "10,000 headers": (GET + HEAD + b"".join(b"X-%d: a\r\n" % i for i in range(10_000)), 431),
    "300 headers": (GET + HEAD + b"".join(b"X-%d: a\r\n" % i for i in range(300)) + b"\r\n", 431),
    "a header of 1 MB": (GET + HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
    "a target of 1 MB": (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 431),
    "10,000 trailers": (
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        + b"".join(b"X-%d: a\r\n" % i for i in range(10_000)),
        431,
    ),
    "a length and chunks": (
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "another encoding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "two encodings": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}}", 400),
    "a negative length": (POST + b"Content-Length: -4\r\n\r\n{}{}", 400),
    "a length with a sign": (POST + b"Content-Length: +4\r\n\r\n{}{}", 400),
    "a length without end": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}", 400),
    "a chunk without end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 20 + b"\r\n",
        400,
    ),
    "chunks of one byte": (
        # The whole would be a request: the chunks alone are what is wrong with it.
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 5000
        + b'2b\r\n{"model":"m","prompt":"a","max_tokens":  1}\r\n0\r\n\r\n',
        400,
    ),
    "another host in the target": (b"GET http://evil/v1/models HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "a tunnel": (b"CONNECT evil:80 HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "a target without a slash": (b"GET v1/models HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "zero in the path": (b"GET /v1/%00models HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "a raw zero in the path": (b"GET /v1/\0models HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "raw bytes in the path": (b"GET /v1/\xff\xfe HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "broken UTF-8 in the path": (b"GET /v1/%ff%c0%af HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    "broken escapes": (b"GET /v1/%zz%f HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    "a way up": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    "zero in a header": (GET + HEAD + b"X: a\0b\r\n\r\n", 400),
    "a folded header": (GET + HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "a space in a name": (GET + HEAD + b"X A : a\r\n\r\n", 400),
    "bare line feeds": (b"GET /v1/models HTTP/1.1\nHost: localhost\n\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
    "100,000 brackets": (_post(b"[" * 100_000), 400),
    "100,000 objects in each other": (_post(b'{"a":' * 100_000), 400),
    "900 brackets": (_completion(b'"x":' + b"[" * 900 + b"]" * 900), 400),
    "100,000 digits": (_completion(b'"seed":' + b"1" * 100_000), 400),
    "4,000 digits": (_completion(b'"temperature":' + b"1" * 4000), 400),
    "100,000 digits as text": (_completion(b'"top_k":"' + b"1" * 100_000 + b'"'), 400),
    "NaN": (_completion(b'"temperature":NaN'), 400),
    "infinity": (_completion(b'"temperature":-Infinity'), 400),
    "a number that is infinite": (_completion(b'"x":1e999'), 400),
    "half a surrogate pair": (_post(b'{"model":"m","prompt":"\\ud800"}'), 400),
    "Latin-1": (_post(b'{"model":"m","prompt":"\xff"}'), 400),
    "compressed": (_post(b"\x1f\x8b\x08" + bytes(50)), 400),
    "400,000 lists": (_completion(b'"x":[' + b"[]," * 400_000 + b"[]]"), 413),
    "a million numbers": (_completion(b'"x":[' + b"1," * 1_000_000 + b"1]"), 413),
    "a million texts": (_completion(b'"x":[' + b'"",' * 1_000_000 + b'""]'), 413),
    "400,000 prompts": (_post(b'{"model":"m","prompt":[' + b"[1]," * 400_000 + b"[1]]}"), 413),
    "310,000 keys": (
        _completion(b'"x":{' + b",".join(b'"%d":0' % i for i in range(310_000)) + b"}"),
        413,
    ),
    "8 MB of text": (_post(b'{"model":"m","prompt":"' + b"a " * 4_000_000 + b'"}'), 400),
    "8 MB to tokenize": (
        _post(b'{"model":"m","content":"' + b"a" * 8_000_000 + b'"}', b"/tokenize"),
        400,
    ),
    "9 MB": (_post(b"a" * 9_000_000), 413),
}


@pytest.fixture(scope="module")
def gateway(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_gguf, tmp_path_factory.mktemp("http")) as running:
        yield running


def _send(gateway: Local, data: bytes) -> bytes:
    """All that is answered."""
    answer = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(data)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    return answer


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_gets_4xx(
    gateway: Local, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, status = MALFORMED[name]
    answer = _send(gateway, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert json.loads(body)["error"]["message"]
    assert len(body) < 1000
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("fields", [b'"x":' + b"[" * 250 + b"]" * 250, b'"seed":' + b"1" * 4000])
def test_what_is_odd_and_harmless_is_answered(gateway: Local, fields: bytes) -> None:
    assert _send(gateway, _completion(fields)).startswith(b"HTTP/1.1 200 ")


def test_the_target_may_name_the_host(gateway: Local) -> None:
    request = b"GET http://localhost/v1/models HTTP/1.1\r\n" + HEAD + b"\r\n"
    assert _send(gateway, request).startswith(b"HTTP/1.1 200 ")


def test_more_requests_than_answers_end_the_connection(gateway: Local) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert _send(
        gateway, request * 5 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    answer = _send(gateway, request * 2000)
    assert b" 400 " in answer
    assert answer.count(b"HTTP/1.1") < 100


def test_a_large_body_is_checked_as_a_small_one_is(gateway: Local) -> None:
    text = '日本語\\n"' * 20_000
    assert gateway.post("/tokenize", {"content": text})[0] == 200
    for body in ({"content": 5, "x": text}, {"x": text}):
        status, answer = gateway.post("/tokenize", body)
        assert status == 400
        assert answer["error"]["param"] == "content"


def test_others_are_answered_while_bodies_of_megabytes_come(gateway: Local) -> None:
    """What a request waits for is the loop: it never stands still for as long as a body takes."""
    heavy = [MALFORMED[n][0] for n in ("400,000 lists", "310,000 keys", "400,000 prompts")]
    attackers = [threading.Thread(target=_send, args=(gateway, data)) for data in heavy]
    started = time.monotonic()
    for thread in attackers:
        thread.start()
    times: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    while any(thread.is_alive() for thread in attackers):
        before = time.monotonic()
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        times.append(time.monotonic() - before)
        time.sleep(0.005)
    connection.close()
    took = time.monotonic() - started
    times.sort()
    assert times[len(times) * 99 // 100] < took / 5, f"of {took:.1f} s, {times[-5:]}"
