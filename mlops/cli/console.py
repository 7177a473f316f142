"""What the commands share: the console, a policy's file, and where the MLflow records are."""

from __future__ import annotations

import os
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


def use_records(work_dir: Path) -> None:
    """From here on MLflow's records are those of the work folder, or of the server that the environment names."""
    from matchmaking.base.settings import tracking_uri

    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(work_dir)
