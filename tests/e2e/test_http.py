"""What operators and hostile clients do, against a running server."""

from __future__ import annotations

import datetime
import hashlib
import http.client
import json
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from conftest import Server, make_certificate, spans, start_server, stop_server

LONG = {"prompt": "One, two, three,", "max_tokens": 2000, "ignore_eos": True, "temperature": 0}


def ask(server: Server, method: str, path: str, body: dict | bytes | None = None,
        headers: dict | None = None) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def metric(server: Server, series: str) -> float:
    text = ask(server, "GET", "/metrics")[2].decode()
    return float(re.search(rf"^treeline_{series}(?:\{{[^}}]*\}})? (\S+)$", text, re.M).group(1))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def post_and_keep_open(server: Server, body: dict) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    data = json.dumps(body).encode()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                       % (len(data), data))
    return connection


def test_probes(server: Server) -> None:
    for path in ("/health", "/ready", "/version", "/metrics", "/v1/models"):
        assert ask(server, "GET", path)[0] == 200


def test_errors_are_json(server: Server) -> None:
    for method, path, body, status in [
        ("GET", "/nowhere", None, 404),
        ("GET", "/v1/completions", None, 405),
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", b'{"prompt": "\xff"}', 400),
        ("POST", "/v1/completions", b"[" * 100_000, 400),
        ("POST", "/v1/completions", b'{"prompt": "x", "temperature": NaN}', 400),
        ("POST", "/v1/completions", b'{"prompt": "x", "top_p": -1}', 400),
        ("POST", "/v1/completions", b'{"prompt": "' + b"x" * 10_000_000 + b'"}', 413),
        ("POST", "/v1/completions", b'{"prompt": "' + b"x" * 5_000_000 + b'"}', 400),
    ]:
        got, headers, answer = ask(server, method, path, body)
        assert got == status
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
        assert headers["x-request-id"]


def test_a_stream_says_what_the_whole_answer_says(server: Server) -> None:
    asked = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 12,
             "temperature": 0}
    whole = json.loads(ask(server, "POST", "/v1/chat/completions", asked)[2])
    status, headers, body = ask(server, "POST", "/v1/chat/completions", asked | {
        "stream": True, "stream_options": {"include_usage": True}})
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    *events, last, end = [event.removeprefix("data: ") for event in body.decode().split("\n\n")
                          if event.startswith("data: ")]
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"] != ""
    assert json.loads(last)["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert end == "[DONE]"


def test_request_id_is_echoed(server: Server) -> None:
    assert ask(server, "GET", "/health", headers={"x-request-id": "abc"})[1]["x-request-id"] == "abc"


def test_a_leaving_client_frees_its_slot(server: Server) -> None:
    for stream in (True, False):
        aborted = metric(server, r'request_success_total\{[^}]*finished_reason="abort"\}')
        connection = post_and_keep_open(server, LONG | {"stream": stream})
        wait_for(lambda: metric(server, "num_requests_running") == 1)
        connection.close()
        wait_for(lambda: metric(
            server, r'request_success_total\{[^}]*finished_reason="abort"\}') == aborted + 1)
        wait_for(lambda: metric(server, "num_requests_running") == 0)
        wait_for(lambda: metric(server, "state_slots_used") == 0)


def test_hostile_sockets_hurt_nobody(server: Server) -> None:
    half_open = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    endless = socket.create_connection(("127.0.0.1", server.port))
    endless.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 100_000)
    assert endless.recv(12) == b"HTTP/1.1 431"
    chunked = socket.create_connection(("127.0.0.1", server.port))
    chunked.sendall(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(9):
        chunked.sendall(chunk)
    assert chunked.recv(12) == b"HTTP/1.1 413"
    assert ask(server, "GET", "/health")[0] == 200
    for connection in [*half_open, endless, chunked]:
        connection.close()


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys(tmp_path: pathlib.Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\nalice {sha256('secret')}\n")
    guarded = start_server(tmp_path, "--api-keys-file", str(keys))
    try:
        assert ask(guarded, "GET", "/v1/models")[0] == 401
        assert ask(guarded, "GET", "/v1/models", headers={"Authorization": "Bearer x"})[0] == 401
        assert ask(guarded, "GET", "/v1/models",
                   headers={"Authorization": "Bearer secret"})[0] == 200
        assert ask(guarded, "GET", "/health")[0] == 200
        keys.write_text(f"bob {sha256('other')} 1\n")
        guarded.process.send_signal(signal.SIGHUP)
        bob = {"Authorization": "Bearer other"}
        wait_for(lambda: ask(guarded, "GET", "/v1/models", headers=bob)[0] == 200)
        assert ask(guarded, "GET", "/v1/models", headers={"Authorization": "Bearer secret"})[0] == 401
        short = {"prompt": "x", "max_tokens": 1}
        assert ask(guarded, "POST", "/v1/completions", short, bob)[0] == 200
        status, headers, _ = ask(guarded, "POST", "/v1/completions", short, bob)
        assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60
    finally:
        assert stop_server(guarded) == 0


def test_sigterm_lets_running_requests_finish(tmp_path: pathlib.Path) -> None:
    # So much that it still runs once the others below have been answered.
    draining = start_server(tmp_path, "--drafter", "none", "--drain-timeout-seconds", "600")
    connection = post_and_keep_open(draining, LONG | {"stream": True, "max_tokens": 500})
    received = connection.recv(20)  # Under way.
    draining.process.send_signal(signal.SIGTERM)
    wait_for(lambda: ask(draining, "GET", "/ready")[0] == 503)
    assert ask(draining, "POST", "/v1/completions", LONG)[0] == 503
    while part := connection.recv(65536):
        received += part
    assert b"data: [DONE]" in received
    assert draining.process.wait(timeout=60) == 0


def test_a_second_signal_stops_at_once(tmp_path: pathlib.Path) -> None:
    stopping = start_server(tmp_path, "--drain-timeout-seconds", "600")
    connection = post_and_keep_open(stopping, LONG | {"stream": True, "max_tokens": 8000})
    connection.recv(20)
    stopping.process.send_signal(signal.SIGTERM)
    wait_for(lambda: ask(stopping, "GET", "/ready")[0] == 503)
    stopping.process.send_signal(signal.SIGTERM)
    assert stopping.process.wait(timeout=30) == 0


def test_tls_and_a_renewed_certificate(tmp_path: pathlib.Path) -> None:
    def get_models() -> int:
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with urllib.request.urlopen(f"https://127.0.0.1:{secure.port}/v1/models",
                                    context=trust) as response:
            return response.status

    make_certificate(tmp_path)
    secure = start_server(tmp_path, "--tls-cert", str(tmp_path / "cert.pem"),
                          "--tls-key", str(tmp_path / "key.pem"))
    try:
        assert get_models() == 200
        make_certificate(tmp_path)
        secure.process.send_signal(signal.SIGHUP)

        def renewed() -> bool:
            try:
                return get_models() == 200
            except urllib.error.URLError:
                return False

        wait_for(renewed)
    finally:
        assert stop_server(secure) == 0


def test_the_log_tells_what_was_produced_and_never_the_text(tmp_path: pathlib.Path) -> None:
    server = start_server(tmp_path, "--log-level", "debug")
    secret = "xylophone"
    ask(server, "POST", "/v1/completions", {"prompt": secret * 3, "max_tokens": 2})
    ask(server, "POST", "/v1/completions", {"prompt": secret, "max_tokens": -2})
    leaver = post_and_keep_open(server, LONG | {"prompt": secret, "stream": True})
    leaver.recv(20)
    leaver.close()
    wait_for(lambda: metric(server, "num_requests_running") == 0)
    assert stop_server(server) == 0
    log = (tmp_path / "server.log").read_text()
    assert secret not in log
    abandoned = re.search(r"/v1/completions 499 .* completion_tokens=(\d+)", log)
    assert int(abandoned.group(1)) > 0


def test_a_request_is_a_span_of_its_clients_trace(tmp_path: pathlib.Path) -> None:
    server = start_server(tmp_path, "--request-log", "json")
    secret = "xylophone"
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"traceparent": parent, "x-request-id": "abc"}
    asked = {"prompt": secret, "max_tokens": 3, "ignore_eos": True}
    echoed = ask(server, "POST", "/v1/completions", asked, headers)[1]["traceparent"].split("-")
    refused = ask(server, "POST", "/v1/completions", {"prompt": secret, "top_p": 7})[1]
    assert ask(server, "GET", "/health")[0] == 200  # Probes are not logged.
    assert stop_server(server) == 0
    # A request is logged once it is answered: the next one may be before it.
    span, refusal = sorted(spans(tmp_path), key=lambda span: span["status"])
    assert echoed == ["00", span["trace_id"], span["span_id"], "01"]
    assert span["trace_id"] == parent.split("-")[1]
    assert span["parent_span_id"] == parent.split("-")[2]
    assert (span["request_id"], span["name"], span["status"]) == ("abc", "POST /v1/completions", "200")
    assert span["completion_tokens"] == 3
    phases = span["queue_ms"] + span["prefill_ms"] + span["decode_ms"]
    assert 0 < phases <= span["duration_ms"]
    assert datetime.datetime.fromisoformat(span["start"]).tzinfo is not None
    assert refusal["status"] == "400" and "parent_span_id" not in refusal
    assert refused["traceparent"].split("-")[1:3] == [refusal["trace_id"], refusal["span_id"]]
    assert secret not in (tmp_path / "server.log").read_text()


def test_killed_and_started_again_it_serves(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        server = start_server(tmp_path)
        connection = post_and_keep_open(server, LONG | {"stream": True})
        connection.recv(20)
        server.process.kill()
        server.process.wait(timeout=30)
    server = start_server(tmp_path)
    assert ask(server, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200
    assert stop_server(server) == 0
