#!/usr/bin/env python3
"""Builds a target of deploy/docker/Dockerfile without a container engine, and tries the image.

    sudo tests/deploy/run_dockerfile.py FOLDER --target cpu --model ~/.cache/treeline/models/M
    sudo tests/deploy/run_dockerfile.py FOLDER --target cuda --model ... --cuda-toolkit /usr/local/cuda

Each stage becomes a root in FOLDER: `FROM debian:12-slim` a fresh Debian 12 (debootstrap), `FROM
stage` a copy of that stage's, COPY a copy (from a clean clone of HEAD, or from another stage), RUN
a command in a chroot. The final root is then started as an engine would: by its ENTRYPOINT and CMD,
as its USER, read-only, in a network of its own, with MODEL at /model. There HEALTHCHECK's command must
fail before the server is there and succeed once it is, a completion must be answered, SIGTERM must
end it with 0, and nothing that builds programs may be found.

--cuda-toolkit stands in for NVIDIA's package repository, where that cannot be reached: the steps that
need it are listed as not run, and this folder is lent to the root instead. No GPU is needed: the
image of target cuda is tried with --device cpu. --disk-cache lends Bazel what was compiled before.

Needs root, debootstrap and the network. Run by hand: it takes minutes, without a disk cache half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "deploy/docker/Dockerfile"
DEBIAN_ROOT = REPOSITORY / "tests/debian_root.sh"
BASE_IMAGE = "debian:12-slim"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUILD_TOOLS = ["gcc", "g++", "cc", "c++", "ld", "make", "bazel", "nvcc", "git", "python3", "pip", "curl"]
NVIDIA_REPOSITORY = re.compile(r"developer\.download\.nvidia\.com|keyring\.deb|cuda-nvcc")
START_TIMEOUT_S = 600


def say(text: str) -> None:
    print(f"run_dockerfile: {text}", file=sys.stderr, flush=True)


def run_group(command: list) -> None:
    """Runs the command; where this script is stopped, so is all that the command has started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr,
                               start_new_session=True)
    try:
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if status != 0:
        raise subprocess.CalledProcessError(status, command)


@dataclasses.dataclass
class Stage:
    """A stage of the Dockerfile, and what its instructions have set so far."""

    parent: str
    instructions: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    entrypoint: list[str] = dataclasses.field(default_factory=list)
    command: list[str] = dataclasses.field(default_factory=list)
    healthcheck: list[str] = dataclasses.field(default_factory=list)
    root: pathlib.Path | None = None

    def inherit(self, parent: Stage) -> None:
        self.environment, self.folder = dict(parent.environment), parent.folder
        self.user, self.entrypoint = parent.user, parent.entrypoint
        self.command, self.healthcheck = parent.command, parent.healthcheck


def parse(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        if name == "FROM":
            image, _, stage = rest.split()
            stages[stage] = Stage(parent=image)
        else:
            list(stages.values())[-1].instructions.append((name, rest))
    return stages


class Builder:
    def __init__(self, folder: pathlib.Path, cuda_toolkit: pathlib.Path | None,
                 disk_cache: pathlib.Path | None):
        self.stages = parse(DOCKERFILE.read_text())
        self.steps_run = 0
        self.steps_not_run: list[str] = []
        self._folder = folder
        self._cuda_toolkit = cuda_toolkit
        self._disk_cache = disk_cache
        self._context = folder / "context"

    def build(self, name: str) -> Stage:
        """The stage, built with all that it needs; again, the same one."""
        stage = self.stages[name]
        if stage.root is not None:
            return stage
        if not self._context.exists():
            subprocess.run(["git", "clone", "-q", "--no-hardlinks", REPOSITORY, self._context],
                           check=True)
            for line in (REPOSITORY / ".dockerignore").read_text().split():
                for path in self._context.glob(line):
                    shutil.rmtree(path)
        base = self._base() if stage.parent == BASE_IMAGE else self.build(stage.parent).root
        if stage.parent != BASE_IMAGE:
            stage.inherit(self.stages[stage.parent])
        root = self._folder / name
        say(f"stage {name}: a copy of {stage.parent}")
        subprocess.run(["cp", "-a", base, root], check=True)
        stage.root = root
        for instruction, rest in stage.instructions:
            self._run(stage, instruction, rest)
        return stage

    def _base(self) -> pathlib.Path:
        root = self._folder / "debian"
        if not root.exists():
            say(f"{BASE_IMAGE}: a fresh Debian 12")
            subprocess.run([DEBIAN_ROOT, "make", root], check=True)
        return root

    def _run(self, stage: Stage, instruction: str, rest: str) -> None:
        say(f"{instruction} {rest}")
        if NVIDIA_REPOSITORY.search(rest) and self._cuda_toolkit:
            say("  not run: NVIDIA's repository is stood in for by a folder")
            self.steps_not_run.append(f"{instruction} {rest}")
            return
        match instruction:
            case "RUN":
                self._run_command(stage, rest)
            case "COPY":
                self._copy(stage, rest.split())
            case "ADD":
                source, target = rest.split()
                subprocess.run(["curl", "-sSfLo", f"{stage.root}{target}", source], check=True)
            case "ARG" | "ENV":
                for setting in shlex.split(rest):
                    key, value = setting.split("=", 1)
                    stage.environment[key] = value
            case "WORKDIR":
                stage.folder = rest
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint, stage.command = json.loads(rest), []
            case "CMD":
                stage.command = json.loads(rest)
            case "HEALTHCHECK":
                stage.healthcheck = json.loads(rest.partition("CMD ")[2])
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"this script does not know {instruction}")
        self.steps_run += 1

    def _copy(self, stage: Stage, words: list[str]) -> None:
        source_root = self._context
        if words[0].startswith("--from="):
            source_root = self.build(words.pop(0).removeprefix("--from=")).root
        source, target = words
        destination = pathlib.Path(f"{stage.root}{target}")
        destination.parent.mkdir(parents=True, exist_ok=True)
        path = source_root / source.lstrip("/")
        if path.is_dir():  # Its content, as Docker has it.
            destination.mkdir(exist_ok=True)
            path = f"{path}/."
        subprocess.run(["cp", "-a", "--no-preserve=ownership", path, destination], check=True)

    def _run_command(self, stage: Stage, command: str) -> None:
        lent = {}
        if self._cuda_toolkit:
            lent["usr/local/cuda"] = self._cuda_toolkit.resolve()
        if self._disk_cache:
            lent["var/cache/bazel-disk"] = self._disk_cache.resolve()
            (stage.root / "root/.bazelrc").write_text("build --disk_cache=/var/cache/bazel-disk\n")
        variables = " ".join(f"{key}={shlex.quote(value)}"
                             for key, value in {"PATH": PATH, **stage.environment}.items())
        script = f"cd {stage.folder} && export {variables} && sh -c {shlex.quote(command)}"
        subprocess.run([DEBIAN_ROOT, "mount", stage.root], check=True)
        try:
            for inside, folder in lent.items():
                (stage.root / inside).mkdir(parents=True, exist_ok=True)
                subprocess.run(["mount", "--bind", folder, stage.root / inside], check=True)
            run_group([DEBIAN_ROOT, "run", stage.root, script])
        finally:
            if (stage.root / "usr/bin/bazel").exists():  # Else its server would hold the mounts.
                subprocess.run([DEBIAN_ROOT, "run", stage.root,
                                f"cd {stage.folder} && bazel shutdown"], stderr=subprocess.DEVNULL)
            for inside in lent:
                subprocess.run(["umount", "-l", stage.root / inside])
            subprocess.run([DEBIAN_ROOT, "unmount", stage.root], check=True)


class Container:
    """A stage's root, read-only, in a network of its own."""

    def __init__(self, stage: Stage, model: pathlib.Path):
        self._stage = stage
        root = shlex.quote(str(stage.root))
        (stage.root / "model").mkdir(exist_ok=True)
        # Waits, in the namespaces that everything else enters.
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c",
             f"mount --bind {root} {root} && mount --bind {shlex.quote(str(model))} {root}/model && "
             f"mount -o remount,bind,ro {root}/model && mount -t proc proc {root}/proc && "
             f"mount --bind /dev {root}/dev && mount -o remount,bind,ro {root} && "
             "ip link set lo up && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE)
        assert self._holder.stdout.readline() == b"ready\n"
        children = pathlib.Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._pid = children.read_text().split()[0]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def enter(self, *command: str) -> list[str]:
        """The command, of this machine, in the container's namespaces."""
        return ["nsenter", "--target", self._pid, "--mount", "--net", "--pid", *command]

    def inside(self, *command: str) -> list[str]:
        """The command, of the image, as its user."""
        environment = [f"{key}={value}" for key, value in self._stage.environment.items()]
        user = self._stage.user
        return self.enter("chroot", f"--userspec={user}:{user}", str(self._stage.root), "/usr/bin/env",
                          "-i", f"PATH={PATH}", *environment, *command)

    def healthy(self) -> bool:
        return subprocess.run(self.inside(*self._stage.healthcheck),
                              capture_output=True).returncode == 0


def try_image(stage: Stage, model: pathlib.Path, more_flags: list[str]) -> None:
    container = Container(stage, model)
    try:
        for tool in BUILD_TOOLS:
            found = subprocess.run(container.inside("sh", "-c", f"command -v {tool}"),
                                   capture_output=True).returncode == 0
            assert not found, f"{tool} is in the image"
        say("no build tools in the image")
        assert not container.healthy(), "healthy without a server"
        server = subprocess.Popen(container.inside(*stage.entrypoint, *stage.command, *more_flags))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not container.healthy():
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not become healthy"
            time.sleep(0.2)
        say("healthy once the server is ready")
        processes = subprocess.run(["pgrep", "--uid", stage.user, "--exact", "treeline"],
                                   capture_output=True, text=True, check=True).stdout.split()
        assert len(processes) == 1
        say(f"the server runs as user {stage.user}")
        answer = subprocess.run(
            container.enter("curl", "-sSf", "http://127.0.0.1:8080/v1/completions", "-d",
                            '{"prompt": "One, two, three,", "max_tokens": 8, "temperature": 0}'),
            capture_output=True, text=True, check=True).stdout
        say(f"answers: {json.loads(answer)['choices'][0]['text']!r}")
        os.kill(int(processes[0]), signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        say("SIGTERM ends it with 0")
    finally:
        container.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="empty or new; it is kept")
    parser.add_argument("--target", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--cuda-toolkit", type=pathlib.Path)
    parser.add_argument("--disk-cache", type=pathlib.Path)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root (chroot and mounts)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Unmounts.
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(path.name not in ("debian", "debian.log") for path in folder.iterdir()):
        parser.error(f"{folder} holds more than the Debian of an earlier run: remove it first")
    start = time.monotonic()
    builder = Builder(folder, arguments.cuda_toolkit, arguments.disk_cache)
    stage = builder.build(arguments.target)
    say(f"built in {time.monotonic() - start:.0f} s")
    on_cpu = ["--device", "cpu"] if arguments.target == "cuda" else []
    try_image(stage, arguments.model.resolve(), on_cpu)
    print(f"target {arguments.target}: {builder.steps_run} steps run")
    for step in builder.steps_not_run:
        print(f"not run: {step}")


if __name__ == "__main__":
    main()
