"""An asyncio HTTP client for streamed completions that notes when each event came.

Written on sockets, because load tests need thousands of streams in one process, and chaos tests
need to stop reading, leave, and send what no client would.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

CONNECT_TIMEOUT_S = 30.0
LINE_LIMIT = 1 << 20


class Broken(Exception):
    """The connection ended in the middle of an answer."""


@dataclasses.dataclass
class Head:
    status: int
    headers: dict[str, str]


@dataclasses.dataclass
class Answer:
    """What a request brought. Times are seconds of time.monotonic()."""

    status: int = 0
    sent: float = 0.0
    event_times: list[float] = dataclasses.field(default_factory=list)
    event_tokens: list[int] = dataclasses.field(default_factory=list)
    end: float = 0.0
    text: str = ""
    logprobs: list[float] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    done: bool = False  # The stream ended as it should.
    retry_after: str | None = None
    error: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        return self.usage["completion_tokens"] if self.usage else sum(self.event_tokens)

    def content(self) -> list[Any]:
        """What must be the same, to the last bit, whatever else the server does."""
        return [self.text, self.logprobs, self.finish_reason,
                self.usage and [self.usage["prompt_tokens"], self.usage["completion_tokens"]]]


class Connection:
    """One request on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, host: str, port: int, limit: int = LINE_LIMIT) -> Connection:
        return cls(*await asyncio.wait_for(
            asyncio.open_connection(host, port, limit=limit), CONNECT_TIMEOUT_S))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: dict[str, Any] | bytes, headers: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\nConnection: close\r\n{headers}\r\n")
        await self.send(head.encode() + data)

    async def read_head(self) -> Head:
        line = await self._line()
        parts = line.split(b" ", 2)
        if len(parts) < 2 or not parts[1].isdigit():
            raise Broken(f"not a status line: {line[:80]!r}")
        headers = {}
        while line := (await self._line()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Head(int(parts[1]), headers)

    async def body(self, head: Head) -> bytes:
        if "content-length" in head.headers:
            try:
                return await self.reader.readexactly(int(head.headers["content-length"]))
            except asyncio.IncompleteReadError as error:
                raise Broken("the body is shorter than announced") from error
        return b"".join([part async for part in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int((await self._line()).strip() or b"x", 16)
            try:
                data = await self.reader.readexactly(size + 2)
            except asyncio.IncompleteReadError as error:
                raise Broken("a chunk is shorter than announced") from error
            if size == 0:
                return
            yield data[:-2]

    async def events(self) -> AsyncIterator[str]:
        """The data of server-sent events; comments are left out."""
        buffered = b""
        async for part in self.chunks():
            buffered += part
            *events, buffered = buffered.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: "):
                    yield event[6:].decode()

    async def _line(self) -> bytes:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise Broken("the connection ended")
        return line

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def add_chunk(answer: Answer, chunk: dict[str, Any], now: float) -> None:
    """Takes one streamed chunk into the answer."""
    answer.usage = chunk.get("usage") or answer.usage
    answer.error = chunk.get("error") or answer.error
    for choice in chunk.get("choices", []):
        answer.text += choice["text"]
        answer.finish_reason = choice["finish_reason"] or answer.finish_reason
        logprobs = choice.get("logprobs")
        values = logprobs["token_logprobs"] if logprobs else []
        answer.logprobs += values
        answer.event_times.append(now)
        answer.event_tokens.append(len(values) if logprobs else 1)


# So many connections at a time are opened and given their request: a server drops those that
# are opened and say nothing, as they would where a thousand tasks all open theirs first.
_opening = asyncio.Semaphore(64)


async def complete(host: str, port: int, body: dict[str, Any]) -> Answer:
    """A whole streamed completion. Broken or OSError where the connection fails."""
    async with _opening:
        answer = Answer(sent=time.monotonic())
        connection = await Connection.open(host, port)
        await connection.post("/v1/completions", body)
    try:
        head = await connection.read_head()
        answer.status = head.status
        answer.retry_after = head.headers.get("retry-after")
        if head.status != 200:
            answer.error = json.loads(await connection.body(head))["error"]
        else:
            async for event in connection.events():
                if event == "[DONE]":
                    answer.done = True
                else:
                    add_chunk(answer, json.loads(event), time.monotonic())
        answer.end = time.monotonic()
        return answer
    finally:
        await connection.close()
