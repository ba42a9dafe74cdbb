"""One `treeline serve` for all end-to-end tests, on a free port.

TREELINE_BIN names the binary, TREELINE_MODEL the folder of the default model;
`make test` sets both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import openai
import pytest

START_TIMEOUT_S = 120.0


@dataclasses.dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int | None  # Where --grpc-port was given.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def start_server(folder: pathlib.Path, *flags: str, model: str | None = None) -> Server:
    """Starts a server and waits until it answers; its log goes to folder/server.log.

    `model` is a folder; without it, the default model's.
    """
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [os.environ["TREELINE_BIN"], "serve",
             "--model", model or os.environ["TREELINE_MODEL"],
             "--port", "0", "--port-file", str(port_file), *flags],
            stderr=log,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start:\n{log_path.read_text()}")
        time.sleep(0.02)
    ports = [int(line) for line in port_file.read_text().split()]
    return Server(process, ports[0], ports[1] if len(ports) > 1 else None)


def stop_server(server: Server) -> int:
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise


def make_certificate(folder: pathlib.Path) -> None:
    """Writes folder/cert.pem, signed by itself, for this machine, and folder/key.pem: both at once."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", "new-key.pem", "-out", "new-cert.pem"],
                   check=True, capture_output=True, cwd=folder)
    for name in ("key.pem", "cert.pem"):
        (folder / f"new-{name}").rename(folder / name)


def spans(folder: pathlib.Path) -> list[dict]:
    """What a server of this folder logged with --request-log json."""
    lines = (folder / "server.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("server"), "--served-model-name", "smollm2")
    yield running
    assert stop_server(running) == 0


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)
