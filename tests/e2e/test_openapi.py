"""schemathesis makes requests of /openapi.json's schemas, legal ones and others, and checks answers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import Server, start_server, stop_server

# Longer by hand: TREELINE_SCHEMATHESIS_SECONDS=3600.
SECONDS = os.environ.get("TREELINE_SCHEMATHESIS_SECONDS", "30")


@pytest.fixture(scope="module")
def short_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its context is small, so that no answer is long."""
    running = start_server(tmp_path_factory.mktemp("short"), "--max-context", "64",
                           "--served-model-name", "smollm2")
    yield running
    assert stop_server(running) == 0


def test_answers_are_as_described(short_server: Server, tmp_path: pathlib.Path) -> None:
    server = short_server
    document = tmp_path / "openapi.json"  # From its own address, it would leave that address out.
    with urllib.request.urlopen(f"{server.url}/openapi.json") as response:
        document.write_bytes(response.read())
    finished = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", str(document),
         "--url", server.url, "--max-examples", "10", "--max-time", SECONDS,
         "--seed", "1", "--phases", "examples,fuzzing", "--request-timeout", "120", "--checks",
         "not_a_server_error,status_code_conformance,content_type_conformance,"
         "response_schema_conformance,negative_data_rejection"],
        capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    paths = json.loads(document.read_text())["paths"]
    assert f"Tested: {len(paths)}\n" in finished.stdout, finished.stdout[-3000:]


def test_every_described_route_is_there(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json") as response:
        document = json.load(response)
    for path, methods in document["paths"].items():
        for method in methods:
            request = urllib.request.Request(
                server.url + path.replace("{model}", "smollm2"), method=method.upper(),
                data=b"{}" if method == "post" else None)
            try:
                status = urllib.request.urlopen(request).status
            except urllib.error.HTTPError as error:
                status = error.code
            assert status == (400 if method == "post" else 200), path
