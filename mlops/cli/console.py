"""What the commands share: the console, and a policy's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def policy_text(path: Path | None) -> str:
    """A policy's file as it is, once it has been found to be one; empty for none."""
    if path is None:
        return ""
    from matchmaking.evidence.policy import load_policy

    load_policy(path)
    return path.read_text(encoding="utf-8")


def make_console(stderr: bool = True) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
