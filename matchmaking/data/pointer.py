"""The pointer file that git holds of each version of the data, at any revision.

A version is the md5 of its bytes, a revision is anything git understands (commit, tag, branch).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from matchmaking.base.errors import InputError, MlopsError

DATA = Path("data/pairs.csv")
POINTER = Path("data/pairs.csv.dvc")


@dataclass(frozen=True)
class Pointer:
    """What git knows of a version.

    Attributes:
        md5: of the bytes.
        size: in bytes.
        rows: pairs in it; None where the pointer was written by DVC alone.
        sample: rows and seed of the sample it is; None for data of your own.
    """

    md5: str
    size: int
    rows: int | None
    sample: tuple[int, int] | None


def find_root(start: Path | None = None) -> Path:
    """The clone that holds the data's pointer: the current folder, or one above it.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / POINTER).exists() or (folder / ".dvc" / "config").exists():
            return folder
    raise InputError(
        f"data versions need a clone of the repository (with {POINTER} and .dvc/), and {start} is in none; "
        "go there, or give a file with --data"
    )


def resolve(rev: str, root: Path | None = None) -> tuple[str, Pointer]:
    """The commit and the pointer of a revision.

    Raises:
        InputError: no git repository, no such revision, or it has no data.
    """
    root = root or find_root()
    commit, text = pointer_at(root, rev)
    return commit, parse_pointer(text, f"{POINTER} at revision {rev}")


def pointer_at(root: Path, rev: str) -> tuple[str, str]:
    check_git(root)
    found = run_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}", check=False)
    if found.returncode:
        raise InputError(f"revision {rev} doesn't exist in {root}; `mlops data versions` lists those that hold data")
    commit = found.stdout.strip()
    text = run_git(root, "show", f"{commit}:./{POINTER.as_posix()}", check=False)
    if text.returncode:
        raise InputError(f"revision {rev} has no {POINTER}: the data was not versioned yet; see `mlops data versions`")
    return commit, text.stdout


def parse_pointer(text: str, where: str) -> Pointer:
    try:
        # every value as text: an md5 may look like a number
        content = yaml.load(text, Loader=yaml.BaseLoader)
        out, meta = content["outs"][0], content.get("meta") or {}
        rows, sample = meta.get("rows"), meta.get("sample")
        md5 = str(out["md5"])
        if not re.fullmatch("[0-9a-f]{32}", md5):
            raise ValueError(f"{md5} is no md5 of a file")
        made = (int(sample["rows"]), int(sample["seed"])) if sample else None
        return Pointer(md5, int(out["size"]), int(rows) if rows else None, made)
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where} isn't what DVC writes for a file ({type(error).__name__}: {reason})") from None


def pointer_history(root: Path) -> list[tuple[str, str, str, Pointer]]:
    """Commits that changed the data, newest first: commit, date, first line of the message, pointer."""
    check_git(root)
    path = POINTER.as_posix()
    fields = "--format=%H%x1f%cI%x1f%s"
    # of all branches and tags: a version that was tried out on a branch can be trained on, too
    log = run_git(root, "log", "HEAD", "--branches", "--tags", "--remotes", fields, "--", path, check=False)
    found = []
    for line in log.stdout.splitlines():
        commit, date, message = line.split("\x1f", 2)
        text = run_git(root, "show", f"{commit}:./{path}", check=False)
        if text.returncode:
            continue  # the commit that removed it
        try:
            found.append((commit, date, message, parse_pointer(text.stdout, commit)))
        except InputError:
            continue  # not a version anyone can go back to
    return found


def tags_by_commit(root: Path) -> dict[str, list[str]]:
    """By the commit that brought the data of a tag, the tags."""
    tags: dict[str, list[str]] = {}
    for tag in run_git(root, "tag", "--list").stdout.splitlines():
        brought = run_git(root, "log", "-1", "--format=%H", f"refs/tags/{tag}", "--", POINTER.as_posix(), check=False)
        if brought.returncode == 0 and brought.stdout.strip():
            tags.setdefault(brought.stdout.strip(), []).append(tag)
    return tags


def check_git(root: Path) -> None:
    if run_git(root, "rev-parse", "--git-dir", check=False).returncode:
        raise InputError(f"{root} is not a git repository: data versions are git revisions, so they need a clone")


def run_git(root: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    # core.quotePath and colours of the user's own settings don't reach what is asked for here
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise InputError("git is not installed; data versions are git revisions") from None
    except subprocess.TimeoutExpired:
        raise MlopsError(f"git {args[0]} didn't end within a minute") from None
    if check and done.returncode:
        raise MlopsError(f"git {args[0]} failed: {' '.join((done.stderr or done.stdout).split())}")
    return done


def working_pointer(root: Path) -> Pointer:
    try:
        return parse_pointer((root / POINTER).read_text(encoding="utf-8"), str(POINTER))
    except FileNotFoundError:
        raise InputError(f"{root} has no {POINTER}: no data is versioned yet; `mlops data add FILE` does") from None


def on_no_branch() -> bool:
    """Whether a commit made now would be on no branch (a detached HEAD), and so be lost with the next checkout."""
    return run_git(find_root(), "symbolic-ref", "--quiet", "HEAD", check=False).returncode != 0


def uncommitted(root: Path) -> bool:
    return bool(run_git(root, "status", "--porcelain", "--", POINTER.as_posix()).stdout.strip())
