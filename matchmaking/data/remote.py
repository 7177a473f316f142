"""The bytes that a pointer points to: in DVC's cache and in a remote.

The sample data of a fresh clone is in no remote: its pointer says how it is made, and it is made again wherever it is
wanted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from matchmaking.base.errors import InputError, MlopsError, cannot_write
from matchmaking.base.files import file_md5, written_whole
from matchmaking.base.redact import redact
from matchmaking.data.pointer import DATA, POINTER, Pointer, pointer_history, working_pointer

if TYPE_CHECKING:
    from dvc.repo import Repo

# how long a remote has to say whether it holds a version; the transfer of the bytes takes what it takes
REMOTE_SECONDS = 30.0

T = TypeVar("T")


class RemoteError(MlopsError):
    """The DVC remote can't be reached, or refused."""


class MissingError(MlopsError):
    """A version is known to git, but its bytes are nowhere to be had."""


def check_saved(root: Path, md5: str, leaving: bool) -> None:
    """Makes sure that the bytes in place can be had again, and with `leaving`, that git knows of them."""
    if not md5:
        return
    place = f"{DATA} (md5 {md5[:12]})"
    known = {pointer.md5: pointer for *_, pointer in pointer_history(root)} if (root / ".git").exists() else {}
    if md5 not in known:
        if (root / POINTER).exists() and working_pointer(root).md5 == md5:
            if not leaving:
                return
            raise InputError(f"{place} was added, but not committed: `git commit {POINTER}` keeps it; then go on")
        raise InputError(
            f"{place} is in no version and would be lost: `mlops data add {DATA}` saves it as one, or move it away"
        )
    if not known[md5].sample:
        from dvc.fs import localfs

        # brought here without the cache, by hand or by a version of ours: it must be possible to come back
        with run_dvc(root) as repo:
            if not repo.cache.local.exists(md5):
                repo.cache.local.add(str(root / DATA), localfs, md5)


def cache_sample(root: Path, pointer: Pointer) -> None:
    """Puts the sample in place into DVC's cache, past which it was made: `dvc status` would miss it there."""
    usual = root / ".dvc" / "cache" / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]
    # without DVC or git the sample is all there is, and works
    if pointer.sample and not usual.exists() and (root / ".git").exists() and find_spec("dvc"):
        from dvc.fs import localfs

        with run_dvc(root) as repo:
            if not repo.cache.local.exists(pointer.md5):
                repo.cache.local.add(str(root / DATA), localfs, pointer.md5)


def obtain(root: Path, commit: str, pointer: Pointer, target: Path) -> None:
    """Writes the bytes of a version: makes the sample, or takes them from the cache or the remote."""
    made = ""
    with written(target) as temporary:
        if pointer.sample:
            from matchmaking.data.sample import generate_file

            rows, seed = pointer.sample
            generate_file(temporary, rows, seed)
            made = file_md5(temporary)
            if made == pointer.md5:
                return
        with run_dvc(root) as repo:
            config = remote_config(repo)
            cached = repo.cache.local.exists(pointer.md5)
            if not cached and not (config and in_remote(repo, [pointer.md5])):
                where = "neither in the DVC cache nor in the remote" if config else "not in the DVC cache, and no "
                if not config:
                    where += "DVC remote is set up"
                if made:
                    raise MissingError(
                        f"the sample data made here has md5 {made}, git has {pointer.md5}: another version of numpy or "
                        f"pandas makes other bytes (`make setup` installs the locked ones); it is {where}"
                    )
                raise MissingError(f"version {pointer.md5} is {where}; `dvc push --all-commits` where it is sends it")
            source = repo.cache.local.oid_to_path(pointer.md5) if cached else "in the DVC remote"
            from dvc.api import DVCFileSystem

            if commit:
                files = DVCFileSystem(repo=str(root), rev=commit, config=config or None)
            else:
                files = DVCFileSystem(repo=str(root))
            temporary.unlink(missing_ok=True)
            files.get_file(DATA.as_posix(), str(temporary))
        if (found := file_md5(temporary)) != pointer.md5:
            raise InputError(
                f"the data {f'at {source}' if cached else source} is damaged: its md5 is {found}, git has "
                f"{pointer.md5}; nothing was changed. Remove it there, and take it from another copy"
            )


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` when all went well and vanishes when not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as temporary:
            yield temporary
    except OSError as error:
        raise cannot_write(target, error) from error


@contextmanager
def run_dvc(root: Path) -> Iterator[Repo]:
    """The DVC repository; what goes wrong in it is told in one line."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        raise InputError("data versions need DVC: pip install 'legalaid-mlops[data]'") from None
    # botocore would try each request five times, a minute each
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
    # its advice on what to commit, and its own words for what is told here
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        raise MlopsError(redact(f"DVC: {' '.join(str(error).split())}")) from error


def remote_config(repo: Repo) -> dict[str, Any]:
    """The default remote of now, as configuration for DVC at an earlier revision; empty for none."""
    name = repo.config["core"].get("remote")
    if not name:
        return {}
    if name not in repo.config["remote"]:
        raise InputError(f".dvc/config names {name} as the default remote, but has no such remote")
    return {"core": {"remote": name}, "remote": {name: dict(repo.config["remote"][name])}}


def in_remote(repo: Repo, md5s: list[str]) -> list[str]:
    """Which of some versions the default remote holds; a RemoteError after `REMOTE_SECONDS`."""

    def ask() -> list[str]:
        odb = repo.cloud.get_remote_odb()
        found = []
        for md5 in md5s:
            # `exists` takes a server that is down for one that doesn't hold it
            with suppress(FileNotFoundError):
                odb.fs.info(odb.oid_to_path(md5))
                found.append(md5)
        return found

    return _within(REMOTE_SECONDS, ask)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns; it runs in a thread, as no setting bounds the time of every kind of remote."""
    result: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            result.append(call())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if result:
        return result[0]
    if failure:
        raise remote_error(failure[0]) from failure[0]
    raise RemoteError(f"the DVC remote didn't answer within {seconds:.0f} s; nothing was changed")


def remote_error(error: Exception) -> MlopsError:
    # the cause says more than DVC's own words: which address, which status
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return RemoteError(redact(f"the DVC remote can't be used: {reason}; nothing was changed"))
