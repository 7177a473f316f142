"""Small clones with versioned data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from matchmaking.base.files import file_md5
from matchmaking.data.pointer import DATA, POINTER
from matchmaking.data.sample import generate_file

ROOT = Path(__file__).parents[1]


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, check=True).stdout.strip()


def make_clone(root: Path, rows: int = 300) -> Path:
    """A git repository with this one's DVC settings, and a sample of `rows` pairs that isn't there yet."""
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    (root / "data").mkdir()
    for name in (".dvcignore", "data/.gitignore"):
        shutil.copy(ROOT / name, root / name)
    generate_file(root / DATA, rows, 5)
    pointer = {
        "outs": [
            {"md5": file_md5(root / DATA), "size": (root / DATA).stat().st_size, "hash": "md5", "path": DATA.name}
        ],
        "meta": {"rows": rows, "sample": {"rows": rows, "seed": 5}},
    }
    (root / DATA).unlink()
    (root / POINTER).write_text(yaml.safe_dump(pointer, sort_keys=False))
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "A Tester")
    git(root, "config", "user.email", "tester@example.org")
    commit_all(root, "first")
    return root


def commit_all(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def pairs_file(folder: Path, seed: int, rows: int = 400) -> Path:
    path = folder / f"pairs-{seed}.csv"
    generate_file(path, rows, seed)
    return path


def dvc(*args: object) -> str:
    """Runs DVC in the current folder; what it runs finds this environment's `mlops`."""
    programs = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([programs / "dvc", *map(str, args)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
