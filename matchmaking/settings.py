"""The one place for settings: what an installation may set, by environment variable, and what it gets otherwise."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXPERIMENT = "LegalAid_Connect_Matchmaking"
PACKAGE = "legalaid-mlops"


@cache
def package_version() -> str:
    """The installed version of this project; "0" in a source tree that isn't installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "0"


def image(kind: str) -> str:
    """The full name of one of our images: `kind` is base, trainer, monitor or client.

    MLOPS_REGISTRY and MLOPS_TAG set the registry and the tag; the tag is the package's version otherwise.
    """
    registry = os.environ.get("MLOPS_REGISTRY", "legalaid")
    return f"{registry}/mlops-{kind}:{os.environ.get('MLOPS_TAG') or package_version()}"


@cache
def code_version() -> str:
    """The git commit this code is at ("-dirty" with local changes), or the package version outside a checkout.

    Images carry it as MLOPS_CODE_VERSION.
    """
    if given := os.environ.get("MLOPS_CODE_VERSION"):
        return given
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return package_version()
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return package_version()


def tracking_uri(work_dir: Path) -> str:
    """Where MLflow records go: MLFLOW_TRACKING_URI, or a SQLite file in the work folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{work_dir.resolve() / 'mlflow.db'}"


def restart_command() -> str:
    """MLOPS_RESTART_COMMAND: the command line, run without a shell, that restarts the service; empty for none."""
    return os.environ.get("MLOPS_RESTART_COMMAND", "").strip()


def restart_timeout() -> float:
    """MLOPS_RESTART_TIMEOUT: the seconds the restart may take."""
    return float(os.environ.get("MLOPS_RESTART_TIMEOUT", "300"))
