#!/usr/bin/env python3
"""Does to a server what clients, networks and operators do, and checks every answer.

The plan, thousands of actions drawn from a seed, is the same for the same seed; its digest is
printed. Whole answers are compared with those of an undisturbed server, so what they hold is the
same in every run too. Restarts (SIGTERM with a drain, and SIGKILL) stand in the plan; only actions
that they overlap may fail, and only as documented: a refused or broken connection, 503, or a stream
that ends with the error that the server is shutting down.

    chaos.py --binary build/treeline --actions 10000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import hashlib
import json
import pathlib
import random
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import client
import load
import offline
import tiny_model
from arrivals import Lengths
from client import Answer, Broken, Connection
from serving import ServerProcess

HOST = "127.0.0.1"
MAX_BODY_BYTES = 256 << 10
REFUSALS = ("429", "503")
# What an action that overlaps a restart may meet besides.
RESTART_OUTCOMES = ("connection failed", "shutting down", "503")
# A server that drains breaks no connection that it took before. An action has its connection so
# long after its start.
OPENED_S = 0.2

# Bodies that are answered with 400, whatever else goes on.
BAD_BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"prompt": "\xff\xfe"}',
    b"[" * 50_000,
    b'{"prompt": ' + b'{"a": ' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    b'{"prompt": "x", "temperature": NaN}',
    b'{"prompt": "x", "temperature": -1}',
    b'{"prompt": "x", "max_tokens": 0}',
    b'{"prompt": "x", "max_tokens": 1e300}',
    b'{"prompt": "x", "n": 100000}',
    b'{"prompt": [1e999]}',
    b'{"prompt": [-1]}',
    b'{"prompt": {"a": 1}}',
    b'{"prompt": "x", "stop": [' + b'"a", ' * 1000 + b'"a"]}',
    b'{"prompt": "x", "logit_bias": {' + b", ".join(b'"%d": 1' % i for i in range(5000)) + b"}}",
    b'{"prompt": "x", "tools": [{}]}',
    b'{"messages": []}',
)
# What no HTTP client sends, and the status it is answered with.
BAD_REQUESTS = (
    (b"nonsense\r\n\r\n", "400"),
    (b"GET /health HTTP/1.1\r\nX: " + b"a" * 100_000, "431"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400"),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
    (b"POST /v1/completions HTTP/1.1\r\n\r\n", "411"),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\nx", "413"),
    (b"DELETE /v1/completions HTTP/1.1\r\n\r\n", "405"),
    (b"GET /nowhere HTTP/1.1\r\n\r\n", "404"),
)


@dataclasses.dataclass
class Down:
    """From a signal until the next server is ready."""

    gentle: bool
    begin: float
    end: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Action:
    """One entry of the plan. What `number` and `seconds` mean depends on the kind."""

    kind: str
    number: int = 0
    seconds: float = 0.0


def make_plan(count: int, distinct: int, restarts: int, kills: int, seed: int) -> list[Action]:
    """A function of its arguments. Restarts are spread evenly, the others drawn."""
    rng = random.Random(seed)
    kinds = {"stream": 30, "whole": 15, "leave": 15, "leave early": 10, "slow reader": 5,
             "no reader": 3, "bad body": 8, "bad request": 5, "oversized prompt": 3,
             "oversized body": 2, "unfinished": 3, "idle": 3, "probe": 5}
    ranges = {"stream": distinct, "whole": distinct, "leave": 10, "slow reader": distinct,
              "bad body": len(BAD_BODIES), "bad request": len(BAD_REQUESTS)}
    plan = []
    for kind in rng.choices(list(kinds), weights=list(kinds.values()), k=count):
        plan.append(Action(kind, rng.randrange(ranges.get(kind, 1)), round(rng.random(), 3)))
    events = ["restart"] * restarts + ["kill"] * kills
    rng.shuffle(events)
    for i, event in enumerate(events, start=1):
        plan.insert(i * len(plan) // (len(events) + 1), Action(event))
    return plan


def digest(plan: list[Action]) -> str:
    return hashlib.sha256(json.dumps([dataclasses.astuple(a) for a in plan]).encode()).hexdigest()


class Chaos:
    """Runs a plan against a server of its own."""

    def __init__(self, server: ServerProcess, bodies: list[load.Body], expected: list[Any]):
        self.server = server
        self.bodies = bodies
        self.expected = expected
        self.outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
        self.problems: list[str] = []
        self.downs: list[Down] = []
        self.kinds: dict[str, tuple[Callable[[Action], Awaitable[str]], tuple[str, ...]]] = {
            "stream": (self.stream, ("complete", *REFUSALS)),
            "whole": (self.whole, ("complete", *REFUSALS)),
            "leave": (self.leave, ("left", "complete", *REFUSALS)),
            "leave early": (self.leave_early, ("left",)),
            "slow reader": (self.slow_reader, ("complete", *REFUSALS)),
            "no reader": (self.no_reader, ("left",)),
            "bad body": (self.bad_body, ("400",)),
            "bad request": (self.bad_request, tuple(status for _, status in BAD_REQUESTS)),
            "oversized prompt": (self.oversized_prompt, ("400",)),
            "oversized body": (self.oversized_body, ("413",)),
            "unfinished": (self.unfinished, ("left",)),
            "idle": (self.idle, ("left",)),
            "probe": (self.probe, ("200",)),
        }

    async def run(self, plan: list[Action], concurrency: int) -> None:
        slots = asyncio.Semaphore(concurrency)
        tasks = set()
        for action in plan:
            await slots.acquire()
            task = asyncio.create_task(self.perform(action))
            tasks.add(task)
            task.add_done_callback(lambda done: (tasks.discard(done), slots.release()))
            # Two restarts at once would be one.
            if action.kind in ("restart", "kill"):
                await task
        await asyncio.gather(*tasks)

    async def perform(self, action: Action) -> None:
        if action.kind in ("restart", "kill"):
            return await self.restart(gently=action.kind == "restart")
        start = time.monotonic()
        perform, allowed = self.kinds[action.kind]
        try:
            outcome = await asyncio.wait_for(perform(action), 120)
        except (OSError, Broken):
            outcome = "connection failed"
        except asyncio.TimeoutError:
            outcome = "no answer"
        self.outcomes[action.kind, outcome] += 1
        if outcome not in allowed and not self.excused(outcome, start):
            self.problems.append(f"{action}: {outcome}")

    def excused(self, outcome: str, start: float) -> bool:
        """By a restart since the action's start."""
        for down in self.downs:
            if outcome in RESTART_OUTCOMES and down.end >= start:
                drained = down.gentle and start < down.begin - OPENED_S
                if not drained or outcome != "connection failed":
                    return True
        return False

    async def restart(self, gently: bool) -> None:
        down = Down(gently, time.monotonic())
        if gently:
            await self.probe()  # Connections are taken in turn: those opened before it are by now.
        self.downs.append(down)
        loop = asyncio.get_running_loop()
        if gently:
            status = await loop.run_in_executor(None, self.server.terminate)
            self.outcomes["restart", f"exit status {status}"] += 1
            if status != 0:
                self.problems.append(f"SIGTERM: exit status {status}")
        else:
            await loop.run_in_executor(None, self.server.kill)
        began = time.monotonic()
        await loop.run_in_executor(None, self.server.start)
        self.outcomes["start", "ready"] += 1
        down.end = time.monotonic()
        if down.end - began > 10:
            self.problems.append(f"ready only {down.end - began:.1f} s after a restart")

    # -- Actions. Each returns its outcome.

    async def open(self) -> Connection:
        return await Connection.open(HOST, self.server.port)

    def check(self, answer: Answer, number: int) -> str:
        """Of an answer that came whole."""
        if answer.status != 200:
            if answer.status == 429 and not answer.retry_after:
                return "429 without Retry-After"
            return str(answer.status)
        if answer.error is not None:
            shutting_down = "shutting down" in answer.error["message"]
            return "shutting down" if shutting_down else f"error {answer.error}"
        if not answer.done:
            return "ended early"
        return "complete" if answer.content() == self.expected[number] else "another answer"

    async def stream(self, action: Action) -> str:
        answer = await client.complete(HOST, self.server.port, self.bodies[action.number])
        return self.check(answer, action.number)

    async def whole(self, action: Action) -> str:
        body = {name: value for name, value in self.bodies[action.number].items()
                if name != "stream_options"} | {"stream": False}
        connection = await self.open()
        try:
            await connection.post("/v1/completions", body)
            head = await connection.read_head()
            data = json.loads(await connection.body(head))
        finally:
            await connection.close()
        answer = Answer(status=head.status, retry_after=head.headers.get("retry-after"))
        if head.status == 200:
            client.add_chunk(answer, data, time.monotonic())
            answer.done = True
        return self.check(answer, action.number)

    async def leave(self, action: Action) -> str:
        """In the middle of a stream, after some events."""
        connection = await self.open()
        try:
            await connection.post("/v1/completions", self.bodies[action.number % len(self.bodies)])
            head = await connection.read_head()
            if head.status != 200:
                return str(head.status)
            seen = 0
            async for event in connection.events():
                if "shutting down" in event:
                    return "shutting down"
                seen += 1
                if seen > action.number:
                    return "left"
            return "complete"
        finally:
            await connection.close()

    async def leave_early(self, action: Action) -> str:
        """Before the answer begins, streamed or not."""
        connection = await self.open()
        try:
            body = self.bodies[action.number] | {"stream": action.seconds < 0.5}
            if not body["stream"]:
                del body["stream_options"]
            await connection.post("/v1/completions", body)
            await asyncio.sleep(action.seconds / 50)
            return "left"
        finally:
            await connection.close()

    async def narrow(self) -> Connection:
        """A connection whose kernel buffers hold little, so that the server feels a slow reader."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (HOST, self.server.port))
        return Connection(*await asyncio.open_connection(sock=raw, limit=1024))

    async def slow_reader(self, action: Action) -> str:
        """Reads a little at a time, but all of it."""
        connection = await self.narrow()
        try:
            await connection.post("/v1/completions", self.bodies[action.number])
            received = b""
            while part := await connection.reader.read(2048):
                received += part
                await asyncio.sleep(0.002)
        finally:
            await connection.close()
        status = received[9:12].decode("latin-1")
        if status != "200":
            return status if status.isdigit() else "connection failed"
        if b"shutting down" in received:
            return "shutting down"
        if b"data: [DONE]" in received:
            return "complete"
        raise Broken("the stream ended early")

    async def no_reader(self, action: Action) -> str:
        """Asks for much, and reads nothing until the server must have dropped it."""
        connection = await self.narrow()
        try:
            ids = [3] * 10
            await connection.post("/v1/completions", {
                "prompt": ids, "max_tokens": 4000, "ignore_eos": True, "stream": True,
                "logprobs": 5})
            await asyncio.sleep(1 + action.seconds)
            return "left"
        finally:
            await connection.close()

    async def raw(self, request: bytes) -> str:
        """The status that bytes are answered with."""
        connection = await self.open()
        try:
            connection.writer.write(request)
            head = await connection.read_head()
            error = json.loads(await connection.body(head))["error"]
            if set(error) != {"message", "type", "param", "code"}:
                return f"{head.status} with the error {error}"
            return str(head.status)
        finally:
            await connection.close()

    async def bad_body(self, action: Action) -> str:
        body = BAD_BODIES[action.number]
        return await self.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
                              % (len(body), body))

    async def bad_request(self, action: Action) -> str:
        request, status = BAD_REQUESTS[action.number]
        got = await self.raw(request)
        return got if got == status or got in RESTART_OUTCOMES else f"{got} in place of {status}"

    async def oversized_prompt(self, _: Action) -> str:
        body = json.dumps({"prompt": "word " * 20_000}).encode()
        return await self.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
                              % (len(body), body))

    async def oversized_body(self, _: Action) -> str:
        chunk = b"%x\r\n%s\r\n" % (MAX_BODY_BYTES, b"x" * MAX_BODY_BYTES)
        return await self.raw(
            b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + 2 * chunk)

    async def unfinished(self, action: Action) -> str:
        """Stops in the middle of a header or a body."""
        request = b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"
        connection = await self.open()
        try:
            await connection.send(request[:int(action.seconds * len(request)) + 1])
            await asyncio.sleep(action.seconds)
            return "left"
        finally:
            await connection.close()

    async def idle(self, action: Action) -> str:
        connection = await self.open()
        try:
            await asyncio.sleep(2 * action.seconds)
            return "left"
        finally:
            await connection.close()

    async def probe(self, _: Action | None = None) -> str:
        connection = await self.open()
        try:
            await connection.send(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
            head = await connection.read_head()
            await connection.body(head)
            return str(head.status)
        finally:
            await connection.close()


def run(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    model = tiny_model.make(folder / "tiny")
    bodies = load.make_distinct(args.distinct, Lengths((1, 1500), (1, 200)),
                                tiny_model.VOCAB_SIZE, args.seed)
    expected = offline.record(args.binary, model, bodies, folder / "alone")
    # Small limits, so that all of them are met.
    server = ServerProcess(args.binary, model, folder, *offline.COMMON_FLAGS,
                           "--max-slots", "16", "--max-queued-requests", "24",
                           "--max-connections", "64", "--max-body-bytes", str(MAX_BODY_BYTES),
                           "--drain-timeout-seconds", "2", "--write-timeout-seconds", "1",
                           *args.flag)
    server.start()
    fds = server.usage().fds
    plan = make_plan(args.actions, args.distinct, args.restarts, args.kills, args.seed)
    chaos = Chaos(server, bodies, expected)
    start = time.monotonic()
    asyncio.run(chaos.run(plan, args.concurrency))
    duration = time.monotonic() - start
    try:
        server.wait_until_idle()
    except RuntimeError as error:
        chaos.problems.append(str(error))
    deadline = time.monotonic() + 30
    while server.usage().fds > fds and time.monotonic() < deadline:
        time.sleep(0.1)
    if server.usage().fds > fds:
        chaos.problems.append(f"{server.usage().fds} descriptors are open, {fds} were")
    if status := server.terminate():
        chaos.problems.append(f"exit status {status}")
    return {
        "seed": args.seed,
        "plan": digest(plan),
        "actions": len(plan),
        "duration_s": duration,
        "outcomes": {f"{kind}: {outcome}": count
                     for (kind, outcome), count in sorted(chaos.outcomes.items())},
        "problems": chaos.problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--binary", required=True)
    add("--actions", type=int, default=500)
    add("--restarts", type=int, default=2, help="by SIGTERM")
    add("--kills", type=int, default=1, help="by SIGKILL")
    add("--concurrency", type=int, default=48)
    add("--distinct", type=int, default=40)
    add("--seed", type=int, default=1)
    add("--flag", action="append", default=[], help="more for the server, repeatable")
    add("--json", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        summary = run(args, pathlib.Path(name))
    print(json.dumps(summary | {"problems": summary["problems"][:20]}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(1 if summary["problems"] else 0)


if __name__ == "__main__":
    main()
