"""Versions of the training data: git holds a pointer file, DVC the bytes it points to, in its cache and in a remote."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from matchmaking.base.errors import InputError
from matchmaking.base.escape import say, visible
from matchmaking.base.files import file_md5
from matchmaking.base.redact import redact
from matchmaking.data.pointer import (
    DATA,
    POINTER,
    Pointer,
    check_git,
    find_root,
    parse_pointer,
    pointer_at,
    pointer_history,
    resolve,
    run_git,
    tags_by_commit,
    uncommitted,
    working_pointer,
)
from matchmaking.data.remote import (
    MissingError,
    RemoteError,
    cache_sample,
    check_saved,
    in_remote,
    obtain,
    remote_config,
    remote_error,
    run_dvc,
    written,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Version:
    """One entry of the data's history.

    Attributes:
        revision: the commit that brought it, abbreviated.
        tags: git tags at which the data is this version, by that commit.
        date: ISO 8601, of the commit.
        md5, size, rows: see `Pointer`.
        message: the commit's first line.
        here: whether data/pairs.csv is this version now.
        cached: whether DVC's cache holds it.
        remote: whether the default remote holds it; None where there is none, or it doesn't answer.
        sample: whether it is a sample, which is generated anew wherever it is missing.
    """

    revision: str
    tags: tuple[str, ...]
    date: str
    md5: str
    size: int
    rows: int | None
    message: str
    here: bool
    cached: bool
    remote: bool | None
    sample: bool


@dataclass(frozen=True)
class Fetched:
    """A version brought here: the file, the md5 of its bytes, and the commit it was asked for by."""

    path: Path
    md5: str
    commit: str


def fetch(rev: str, folder: Path) -> Fetched:
    """Brings the data of a revision to `<folder>/<md5>.csv`, whole and verified, or not at all.

    Raises:
        InputError: there is no such revision, or the bytes found aren't the ones git names.
        MissingError: the bytes are neither in the cache nor in a remote.
        RemoteError: the remote doesn't answer.
    """
    root = find_root()
    commit, pointer = resolve(rev, root)
    target = folder / f"{pointer.md5}.csv"
    if not (target.exists() and file_md5(target) == pointer.md5):
        obtain(root, commit, pointer, target)
    return Fetched(target, pointer.md5, commit)


def export(rev: str, target: Path) -> Pointer:
    """Writes the data of a revision to a file of its own; errors as of `fetch`."""
    root = find_root()
    commit, pointer = resolve(rev, root)
    obtain(root, commit, pointer, target)
    return pointer


def checkout(rev: str = "") -> Pointer:
    """Puts a version in place as data/pairs.csv, and its pointer beside it.

    Args:
        rev: a git revision; empty for the version that the pointer in the working tree names.

    Raises:
        InputError: there is no such revision, or what is in place was never saved as a version.
        MissingError, RemoteError: see `fetch`.
    """
    root = find_root()
    if rev:
        commit, text = pointer_at(root, rev)
        pointer = parse_pointer(text, f"{POINTER} at revision {rev}")
    else:
        commit, text, pointer = "", "", working_pointer(root)
    now = file_md5(root / DATA) if (root / DATA).exists() else ""
    if now != pointer.md5 or rev:
        check_saved(root, now, bool(rev))
    if now != pointer.md5:
        obtain(root, commit, pointer, root / DATA)
    cache_sample(root, pointer)
    if rev and (root / POINTER).read_text(encoding="utf-8") != text:
        with written(root / POINTER) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return pointer


def remote_uri(rev: str) -> str:
    """Where the default remote keeps the data of a revision, named by its content: for steps that run elsewhere.

    Raises:
        InputError: there is no such revision, no remote, or it is a folder of this machine.
        MissingError: the remote doesn't hold it.
        RemoteError: the remote doesn't answer.
    """
    root = find_root()
    commit, pointer = resolve(rev, root)
    with run_dvc(root) as repo:
        config = remote_config(repo)
        if not config:
            raise InputError(f"--data-rev {rev} needs a DVC remote that the cluster can read: `dvc remote add -d ...`")
        import dvc.api

        uri = dvc.api.get_url(POINTER.with_suffix("").as_posix(), repo=str(root), rev=commit, config=config)
        if "://" not in uri or uri.startswith("file://"):
            raise InputError(f"the DVC remote is a folder of this machine ({uri}), which steps elsewhere can't read")
        if not in_remote(repo, [pointer.md5]):
            raise MissingError(f"the DVC remote doesn't hold {pointer.md5}, the data of {rev}; `dvc push` sends it")
    return str(uri)


def add(given: Path | str, message: str = "", *, commit: bool = True) -> tuple[Pointer, bool]:
    """Makes a dataset the data's newest version: checks it, stores it, sends it to the default remote, commits.

    On any failure data, pointer and git are as they were before.

    Args:
        given: pairs with their outcomes, as `parts.fetch_dataset` takes them. One CSV file, plain or gzip, is stored
            plain, with every byte of it; all else is stored as the one CSV file that is read as the same pairs, without
            columns that we do not know.
        message: of the commit; empty for one that names the version.
        commit: whether to commit the pointer, and nothing else.

    Returns:
        The new version, and whether it was sent to a remote.

    Raises:
        InputError: the dataset isn't there or breaks the schema, is the current version already, or what is in place
            isn't saved.
        RemoteError: the remote doesn't answer.
    """
    from matchmaking.data.describe import Tally
    from matchmaking.data.parquet_rows import is_parquet
    from matchmaking.data.parts import fetch_dataset
    from matchmaking.data.read import open_pairs

    root = find_root()
    check_git(root)
    if commit and run_git(root, "var", "GIT_AUTHOR_IDENT", check=False).returncode:
        raise InputError("git doesn't know who you are: set user.name and user.email with `git config`")
    source = redact(str(given))
    with ExitStack() as undo:
        plain = root / DATA.with_name(f".{DATA.name}.{os.getpid()}.new")
        undo.callback(plain.unlink, missing_ok=True)
        file = Path(given)
        if not file.is_file():
            file = Path(undo.enter_context(tempfile.TemporaryDirectory()), "dataset")
            fetch_dataset(str(given), file)
        parts, extra = open_pairs(file, source=source)
        counted = Tally(None)
        as_it_is = file.is_file() and not is_parquet(file)
        plain.parent.mkdir(parents=True, exist_ok=True)
        with plain.open("w", encoding="utf-8", newline="") as out:
            for part in parts:
                counted.add(part)
                if not as_it_is:
                    _append(part, out)
        counted.check_enough(source)
        if as_it_is:
            _copy_plain(file, plain)
        else:
            _check_written(plain, counted.rows, source)
            if extra:
                say(f"left out, as nobody knows them here: {', '.join(map(visible, extra))}")
        md5 = file_md5(plain)
        if (root / POINTER).exists() and working_pointer(root).md5 == md5 and not uncommitted(root):
            raise InputError(f"{source} is the current version already (md5 {md5})")
        now = file_md5(root / DATA) if (root / DATA).exists() else ""
        if now != md5:
            check_saved(root, now, leaving=False)
        with run_dvc(root) as repo:
            remote = bool(remote_config(repo))
            if remote:
                # before anything is changed
                in_remote(repo, [md5])
            for path in (root / DATA, root / POINTER):
                _restored(undo, path)
            plain.replace(root / DATA)
            # a pointer of its own, without what the last one says of its data
            (root / POINTER).unlink(missing_ok=True)
            repo.add(str(root / DATA))
            with (root / POINTER).open("a", encoding="utf-8") as pointer:
                # where `versions` finds it without reading data
                pointer.write(f"meta:\n  rows: {counted.rows}\n")
            if remote:
                from dvc.fs import localfs

                try:
                    # not `repo.push`, which says that it failed, but not why
                    repo.cloud.get_remote_odb().add(str(root / DATA), localfs, md5)
                except Exception as error:
                    raise remote_error(error) from error
        if commit:
            name = POINTER.as_posix()
            undo.callback(run_git, root, "reset", "--quiet", "--", name, check=False)
            run_git(root, "add", "--", name)
            run_git(root, "commit", "--quiet", "--only", "-m", message or f"Data version {md5[:12]}", "--", name)
        undo.pop_all()
    for leftover in (root / "data").glob(f".*.{os.getpid()}.*"):
        leftover.unlink()
    return working_pointer(root), remote


def versions() -> tuple[list[Version], str]:
    """The data's history, newest first, and why the remote couldn't be asked (empty if it could).

    Raises:
        InputError: not in a clone.
    """
    root = find_root()
    history, tags = pointer_history(root), tags_by_commit(root)
    here = file_md5(root / DATA) if (root / DATA).exists() else ""
    wanted = list({pointer.md5 for *_, pointer in history})
    with run_dvc(root) as repo:
        cached = set(repo.cache.local.oids_exist(wanted))
        held: set[str] | None = None
        trouble = ""
        if remote_config(repo):
            try:
                held = set(in_remote(repo, wanted))
            except RemoteError as error:
                trouble = str(error)
    return [
        Version(
            revision=commit[:10],
            tags=tuple(tags.get(commit, ())),
            date=date,
            md5=pointer.md5,
            size=pointer.size,
            rows=pointer.rows,
            message=message,
            here=pointer.md5 == here,
            cached=pointer.md5 in cached,
            remote=None if held is None else pointer.md5 in held,
            sample=pointer.sample is not None,
        )
        for commit, date, message, pointer in history
    ], trouble


def _append(part: pd.DataFrame, out: TextIO) -> None:
    """Writes pairs as CSV, after those that are there: they are read again to the last bit."""
    from matchmaking.data.cells import csv_texts

    numbers = {str(name): csv_texts(part[name].to_numpy()) for name in part if part[name].dtype == float}
    part.assign(**numbers).to_csv(out, index=False, header=out.tell() == 0, lineterminator="\n")


def _check_written(plain: Path, rows: int, source: str) -> None:
    """Refuses pairs that their CSV file doesn't hold, as a city that is a missing value there: nobody could read it.

    Args:
        plain: the file that was written of them.
        rows: how many they are.
        source: what to call them in messages.

    Raises:
        InputError: it is not read as so many pairs.
    """
    from matchmaking.data.read import open_pairs

    called = f"{source} can't be stored as a CSV file, which nobody could read"
    found = sum(len(part) for part in open_pairs(plain, source=called)[0])
    if found != rows:
        raise InputError(f"{called}: {found:,} of {rows:,} pairs would be there")


def _copy_plain(file: Path, target: Path) -> None:
    with file.open("rb") as raw, target.open("wb") as out:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        shutil.copyfileobj(gzip.GzipFile(fileobj=raw) if packed else raw, out)


def _restored(undo: ExitStack, path: Path) -> None:
    """Registers that `path` becomes again what it is now."""
    kept = path.with_name(f".{path.name}.{os.getpid()}.before")
    if path.exists():
        shutil.copyfile(path, kept)
        undo.callback(kept.replace, path)
    else:
        undo.callback(path.unlink, missing_ok=True)
