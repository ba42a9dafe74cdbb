"""What requests bring when nothing disturbs them: from a server with one slot and no prefix cache."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import load
from serving import ServerProcess

# The same kernel in every process that is compared: which one is fastest is tried at start, and
# kernels round differently.
COMMON_FLAGS = ("--matmul-kernel", "fp32")


def record(binary: str, model: pathlib.Path, bodies: list[load.Body],
           folder: pathlib.Path) -> list[Any]:
    """The content of each body's answer. `folder` is made, for the server's log."""
    folder.mkdir()
    alone = ServerProcess(binary, model, folder, *COMMON_FLAGS, "--max-slots", "1",
                          "--prefix-cache-memory", "0")
    alone.start()
    try:
        return asyncio.run(load.record("127.0.0.1", alone.port, bodies))
    finally:
        alone.terminate()
