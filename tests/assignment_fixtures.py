"""The test vectors of docs/experiments.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
SHARES = (1, 10, 50)
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| (\d+) \| *(\w*) *\| *(\w*) *\| *(\w*) *\|$", re.MULTILINE)


def vectors() -> list[tuple[str, str, int, dict[int, str | None]]]:
    """Salt, client, hash, and the arm by share (None for none)."""
    return [
        (salt, client, int(value), dict(zip(SHARES, (arm or None for arm in arms), strict=True)))
        for salt, client, value, *arms in ROW.findall(PAGE.read_text())
    ]
