"""The files in deploy/ agree with the server and with each other, and with their own schemas."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text()


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """The flags of `treeline serve`, without their dashes."""
    text = subprocess.run([os.environ["TREELINE_BIN"], "serve", "--help"], check=True,
                          capture_output=True, text=True).stdout
    found = set(re.findall(r"^\s*--([a-z0-9-]+)", text, re.M))
    assert {"model", "port", "grpc-port"} <= found
    return found


def flags_of(arguments: list[str]) -> set[str]:
    return {argument[2:].split("=")[0] for argument in arguments if argument.startswith("--")}


def instruction(name: str) -> list[str]:
    """The last arguments given in exec form."""
    return json.loads(re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.M)[-1])


def stages() -> dict[str, str]:
    """Each stage's text by its name."""
    parts = re.split(r"^FROM (?:\S+) AS (\S+)$", DOCKERFILE, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_image_starts_the_server_with_its_flags(flags: set[str]) -> None:
    entrypoint = instruction("ENTRYPOINT")
    assert entrypoint[:2] == ["/opt/treeline/treeline", "serve"]
    for default in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M):
        assert flags_of(entrypoint + json.loads(default)) <= flags
    ports = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.M)[1].split()
    assert ports == ["8080", entrypoint[entrypoint.index("--grpc-port") + 1]]
    assert re.search(r'CMD \["healthcheck", "8080"\]', DOCKERFILE)


def test_final_images_run_unprivileged_and_build_nothing() -> None:
    by_name = stages()
    assert list(by_name)[-1] == "cpu"  # What is built where no target is named.
    assert re.search(r"^USER 10001$", by_name["runtime"], re.M)
    for name in ("runtime", "cuda", "cpu"):
        assert not re.search(r"apt-get|setup\.sh|gcc|g\+\+|nvcc|bazel", by_name[name])


def test_the_image_copies_what_is_there() -> None:
    for source in re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.M):
        assert (REPOSITORY / source).exists()
    for stage in re.findall(r"--from=(\S+)", DOCKERFILE):
        assert stage in stages()


def test_compose_agrees_with_the_image_and_the_flags(flags: set[str]) -> None:
    service = COMPOSE["services"]["treeline"]
    build = service["build"]
    context = DEPLOY / "docker" / build["context"]
    assert (context / build["dockerfile"]).samefile(DEPLOY / "docker/Dockerfile")
    assert build["target"] in stages()
    assert flags_of(service["command"]) <= flags
    exposed = set(re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.M)[1].split())
    assert {port.split(":")[-1] for port in service["ports"]} == exposed
    drain = int(service["command"][service["command"].index("--drain-timeout-seconds") + 1])
    assert int(service["stop_grace_period"].rstrip("s")) > drain


def test_compose_mounts_what_is_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.rsplit(":", 2)[0] if volume.count(":") > 1 else volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "docker" / source).exists(), volume
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


def test_prometheus_scrapes_the_service_and_grafana_asks_prometheus() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["treeline:8080"]
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]
    dashboard = json.loads((DEPLOY / "grafana/treeline.json").read_text())
    for panel in dashboard["panels"]:
        assert panel.get("datasource", {"uid": source["uid"]})["uid"] == source["uid"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")
def test_prometheus_takes_its_files() -> None:
    for arguments in (["check", "rules", "rules.yml"], ["check", "config", "prometheus.yml"]):
        subprocess.run(["promtool", *arguments], cwd=DEPLOY / "prometheus", check=True)


def kubectl() -> str | None:
    """The one of tools/setup.sh programs, or this machine's own."""
    ours = REPOSITORY / "build/kubectl"
    return str(ours) if ours.exists() else shutil.which("kubectl")


def render(overlay: str) -> list[dict]:
    text = subprocess.run([kubectl(), "kustomize", DEPLOY / "kubernetes/overlays" / overlay],
                          check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def test_kubernetes_files_are_valid() -> None:
    files = [path for path in (DEPLOY / "kubernetes").rglob("*.yaml")
             if path.name not in ("kustomization.yaml", "resources.yaml", "deployment.yaml",
                                  "monitor.yaml")]  # Not whole, or of an operator.
    assert len(files) == 3
    for path in files:
        kubernetes_validate.validate(yaml.safe_load(path.read_text()), "1.30", strict=True)


@pytest.mark.skipif(kubectl() is None, reason="needs kubectl: tools/setup.sh programs")
@pytest.mark.parametrize(("overlay", "target"), [("cpu", "cpu"), ("gpu", "cuda")])
def test_overlays_render_to_valid_objects(overlay: str, target: str, flags: set[str]) -> None:
    objects = {item["kind"]: item for item in render(overlay)}
    assert set(objects) == {"Deployment", "Service", "PodDisruptionBudget",
                            "HorizontalPodAutoscaler", "ServiceMonitor"}
    for kind, item in objects.items():
        if kind != "ServiceMonitor":  # The Prometheus operator's own.
            kubernetes_validate.validate(item, "1.30", strict=True)
    pod = objects["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert container["image"] == f"treeline:{target}" and target in stages()
    assert flags_of(container["args"]) <= flags
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [str(port) for port in ports.values()] == re.search(
        r"^EXPOSE (.*)$", DOCKERFILE, re.M)[1].split()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
    for port in objects["Service"]["spec"]["ports"]:
        assert port["targetPort"] in ports
    assert objects["ServiceMonitor"]["spec"]["endpoints"][0]["port"] in {
        port["name"] for port in objects["Service"]["spec"]["ports"]}
    labels = pod["metadata"]["labels"].items()
    selectors = [objects["Service"]["spec"]["selector"]] + [
        objects[kind]["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor")]
    assert all(selector and selector.items() <= labels for selector in selectors)
    drain = next(int(a.split("=")[1]) for a in container["args"] if "drain-timeout" in a)
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > drain + pause
