"""Requests at a steady rate, each begun at its time whatever became of those before, and what came of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

PAYLOAD: dict[str, Any] = {
    "case_type": "Divorce",
    "location": "Delhi",
    "specialization": "Family",
    "urgency_level": 4,
    "budget": 20000,
    "consultation_fee": 9000,
}


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        client: its id; None for a request without one.
        begun: when, in seconds since the load began.
        seconds: until the whole answer was there, or the connection had failed.
        status: of the answer; 0 for none.
        body: of the answer.
    """

    client: str | None
    begun: float
    seconds: float
    status: int
    body: bytes


async def ask(
    port: int, client: str | None, payload: dict[str, Any], path: str = "/predict_match"
) -> tuple[int, bytes]:
    """One request on a connection of its own, read to the end of its content; status 0 where there is no answer."""
    body = json.dumps(payload).encode()
    head = [f"POST {path} HTTP/1.1", "Host: service", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if client is not None:
        head.append(f"X-Client-Id: {client}")
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        found = await reader.readuntil(b"\r\n\r\n")
        lines = found.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return int(lines[0].split()[1]), await reader.readexactly(int(fields.get("content-length", 0)))
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return 0, b""
    finally:
        if writer is not None:
            writer.close()


async def load(
    port: int,
    rate: float,
    seconds: float,
    clients: Callable[[int], str | None] = lambda number: f"client-{number % 997:04d}",
    payload: dict[str, Any] | None = None,
    offset: float = 0.0,
) -> list[Answer]:
    """Sends `rate` requests a second (open loop), from `offset` seconds on, and gives their answers in order."""
    start = time.perf_counter() + offset

    async def one(number: int) -> Answer:
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        begun = time.perf_counter()
        client = clients(number)
        status, body = await asyncio.wait_for(ask(port, client, payload or PAYLOAD), 60)
        return Answer(client, begun - start, time.perf_counter() - begun, status, body)

    return list(await asyncio.gather(*(one(number) for number in range(int(rate * seconds)))))


def run_load(port: int, rate: float, seconds: float, **options: Any) -> list[Answer]:
    return asyncio.run(load(port, rate, seconds, **options))


def milliseconds(answers: list[Answer], *quantiles: float) -> list[float]:
    """Quantiles of the answers' times, in ms."""
    return [float(each) * 1000 for each in np.quantile([answer.seconds for answer in answers], quantiles)]
