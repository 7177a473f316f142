"""Lines of an exposure log, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LINE: dict[str, Any] = {
    "version": 1,
    "time": "2026-03-01T12:07:00.250+00:00",
    "experiment": "ranking-1",
    "mode": "ab",
    "unit": "client-1",
    "variant": "challenger",
    "model": "a" * 64,
    "request": "0" * 32,
    "status": "200",
    "latency_ms": 12.0,
    "answered_by": "challenger",
}


def line(**changes: Any) -> str:
    return json.dumps({**LINE, **changes}) + "\n"


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path
