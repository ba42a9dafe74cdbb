#!/usr/bin/env python3
"""Asks a server's probes again and again, each time on a new connection, until told to stop.

A process of its own, since a load generator that is busy would measure itself. Stops when standard
input closes, and then prints the seconds that each answer took, as JSON by path.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

PATHS = ("/health", "/ready", "/metrics")
INTERVAL_S = 0.1


def main() -> None:
    port = int(sys.argv[1])
    latencies: dict[str, list[float]] = {path: [] for path in PATHS}
    while not select.select([sys.stdin], [], [], INTERVAL_S)[0]:
        for path, taken in latencies.items():
            start = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path)
            connection.getresponse().read()
            connection.close()
            taken.append(time.monotonic() - start)
    print(json.dumps(latencies))


if __name__ == "__main__":
    main()
