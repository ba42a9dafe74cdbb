"""A `treeline serve` process under test: starting, stopping, killing, and looking at it."""

from __future__ import annotations

import dataclasses
import http.client
import os
import pathlib
import re
import signal
import subprocess
import time

START_TIMEOUT_S = 120.0


@dataclasses.dataclass
class Usage:
    """What the process holds."""

    rss_mib: float
    fds: int
    threads: int


class ServerProcess:
    """One server after the other, at the same port, with the same flags."""

    def __init__(self, binary: str, model: pathlib.Path, folder: pathlib.Path, *flags: str):
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [binary, "serve", "--model", str(model), *flags]

    def start(self) -> None:
        """Returns once it is ready."""
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--port", str(self.port), "--port-file", str(port_file)],
                stderr=log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"the server did not start; see {self.folder}/server.log")
            time.sleep(0.01)
        self.port = int(port_file.read_text().split()[0])

    def terminate(self) -> int:
        """SIGTERM, and the exit status once it has ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)

    def usage(self) -> Usage:
        proc = pathlib.Path("/proc") / str(self.process.pid)
        status = (proc / "status").read_text()

        def field(name: str) -> int:
            return int(re.search(rf"^{name}:\s+(\d+)", status, re.M).group(1))

        return Usage(field("VmRSS") / 1024, len(os.listdir(proc / "fd")), field("Threads"))

    def metrics(self) -> dict[str, float]:
        """The sum over labels of every series, by name without its prefix."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        sums: dict[str, float] = {}
        for name, value in re.findall(r"^treeline_(\w+)(?:\{[^}]*\})? (\S+)$", text, re.M):
            sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def wait_until_idle(self, timeout_s: float = 60.0) -> dict[str, float]:
        """The metrics once no request waits or runs; RuntimeError where some never end."""
        deadline = time.monotonic() + timeout_s
        while True:
            metrics = self.metrics()
            held = {name: metrics[name]
                    for name in ("num_requests_running", "num_requests_waiting", "state_slots_used")}
            if not any(held.values()):
                return metrics
            if time.monotonic() > deadline:
                raise RuntimeError(f"still held after {timeout_s} s: {held}")
            time.sleep(0.05)
