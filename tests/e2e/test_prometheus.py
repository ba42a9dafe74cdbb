"""A real Prometheus scrapes the server under load, and every panel of the dashboard has data."""

from __future__ import annotations

import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
import yaml
from conftest import Server, start_server, stop_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None,
                                reason="needs Debian's prometheus")

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/treeline.json").read_text())
PANELS = [pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
          for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
RECORDED = [rule["record"]
            for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
            for rule in group["rules"] if "record" in rule]
INTERVAL_S = 1
TIMEOUT_S = 90


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def complete(server: Server, **body) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    response.read()
    return response.status


class Load(threading.Thread):
    """Sends what makes every metric move, until it is stopped."""

    def __init__(self, server: Server):
        super().__init__()
        self.stopped = threading.Event()
        self._server = server

    def run(self) -> None:
        prompt = "one two three four five six seven " * 16
        with grpc.insecure_channel(f"127.0.0.1:{self._server.grpc_port}") as channel:
            model_info = channel.unary_unary("/treeline.v1.Inference/ModelInfo")
            while not self.stopped.is_set():
                assert complete(self._server, prompt=prompt, max_tokens=40, temperature=0) == 200
                assert complete(self._server, prompt="x", temperature=9) == 400
                model_info(b"")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that scrapes a server under load."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = start_server(folder, "--grpc-port", "0", "--drafter", "ngram")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{INTERVAL_S}s",
                        "evaluation_interval": f"{INTERVAL_S}s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    load = Load(server)
    load.start()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stderr=log)
    yield f"http://127.0.0.1:{port}"
    load.stopped.set()
    load.join()
    process.terminate()
    process.wait(timeout=30)
    assert stop_server(server) == 0


def values(prometheus: str, query: str) -> list[float]:
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 503:  # It starts.
            return []
        raise AssertionError(error.read()) from error
    except urllib.error.URLError:
        return []
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def wait_for_data(prometheus: str, query: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not any(value == value for value in values(prometheus, query)):  # Not NaN.
        assert time.monotonic() < deadline, query
        time.sleep(0.2)


@pytest.mark.parametrize("expression", PANELS)
def test_every_panel_has_data(prometheus: str, expression: str) -> None:
    wait_for_data(prometheus, expression.replace("$model", ".*")
                  .replace("$__rate_interval", f"{10 * INTERVAL_S}s"))


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_has_data(prometheus: str, name: str) -> None:
    wait_for_data(prometheus, name)


def test_no_alert_is_about_a_metric_that_is_not_there(prometheus: str) -> None:
    # "queue_full" has no series until it happens; the family has one of another reason.
    for name in ("up", "treeline_num_requests_waiting", "treeline_requests_rejected_total",
                 'treeline_request_success_total{finished_reason="error"}'):
        wait_for_data(prometheus, name)


def metrics(server: Server, accept: str) -> tuple[str, bytes]:
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as response:
        return response.headers["Content-Type"], response.read()


def test_metrics_are_well_formed(server: Server) -> None:
    content_type, text = metrics(server, "text/plain")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    # promtool wants _total on counters only; vLLM's dashboards know the one, and ours the other.
    complaints = [line for line in (checked.stdout + checked.stderr).decode().splitlines()
                  if line.split()[0] not in ("treeline_iteration_tokens_total",
                                             "treeline_state_slots_total")]
    assert complaints == []


def test_openmetrics_are_well_formed(server: Server) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3"
    content_type, text = metrics(server, accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    plain = metrics(server, "text/plain")[1].decode()
    assert len(families) == plain.count("# TYPE ")
    assert families["treeline_generation_tokens"].type == "counter"
    assert families["treeline_time_to_first_token_seconds"].type == "histogram"


def test_prometheus_scrapes_openmetrics(prometheus: str) -> None:
    # Only there, bounds of buckets look like floats.
    wait_for_data(prometheus, 'treeline_time_to_first_token_seconds_bucket{le="1.0"}')
