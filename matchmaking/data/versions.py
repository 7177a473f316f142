"""Versions of the training data: git holds a pointer file, DVC the bytes it points to, in its cache and in a remote.

A version is the md5 of its bytes, a revision is anything git understands (commit, tag, branch). The sample data of a
fresh clone is in no remote: its pointer says how it is made, and it is made again wherever it is wanted.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from matchmaking.errors import InputError, MlopsError, cannot_write
from matchmaking.redact import redact
from matchmaking.schema import file_md5

if TYPE_CHECKING:
    from dvc.repo import Repo

DATA = Path("data/pairs.csv")
POINTER = Path("data/pairs.csv.dvc")
# how long a remote has to say whether it holds a version; the transfer of the bytes takes what it takes
REMOTE_SECONDS = 30.0

T = TypeVar("T")


class RemoteError(MlopsError):
    """The DVC remote can't be reached, or refused."""


class MissingError(MlopsError):
    """A version is known to git, but its bytes are nowhere to be had."""


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


# --- what git knows ------------------------------------------------------------------------------------


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
    commit, text = _at_revision(root, rev)
    return commit, _parse(text, f"{POINTER} at revision {rev}")


def _at_revision(root: Path, rev: str) -> tuple[str, str]:
    _check_git(root)
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}", check=False)
    if found.returncode:
        raise InputError(f"revision {rev} doesn't exist in {root}; `mlops data versions` lists those that hold data")
    commit = found.stdout.strip()
    text = _git(root, "show", f"{commit}:./{POINTER.as_posix()}", check=False)
    if text.returncode:
        raise InputError(f"revision {rev} has no {POINTER}: the data was not versioned yet; see `mlops data versions`")
    return commit, text.stdout


def _parse(text: str, where: str) -> Pointer:
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


def _history(root: Path) -> list[tuple[str, str, str, Pointer]]:
    """Commits that changed the data, newest first: commit, date, first line of the message, pointer."""
    _check_git(root)
    path = POINTER.as_posix()
    fields = "--format=%H%x1f%cI%x1f%s"
    # of all branches and tags: a version that was tried out on a branch can be trained on, too
    log = _git(root, "log", "HEAD", "--branches", "--tags", "--remotes", fields, "--", path, check=False)
    found = []
    for line in log.stdout.splitlines():
        commit, date, message = line.split("\x1f", 2)
        text = _git(root, "show", f"{commit}:./{path}", check=False)
        if text.returncode:
            continue  # the commit that removed it
        try:
            found.append((commit, date, message, _parse(text.stdout, commit)))
        except InputError:
            continue  # not a version anyone can go back to
    return found


def _tags(root: Path) -> dict[str, list[str]]:
    """By the commit that brought the data of a tag, the tags."""
    tags: dict[str, list[str]] = {}
    for tag in _git(root, "tag", "--list").stdout.splitlines():
        brought = _git(root, "log", "-1", "--format=%H", f"refs/tags/{tag}", "--", POINTER.as_posix(), check=False)
        if brought.returncode == 0 and brought.stdout.strip():
            tags.setdefault(brought.stdout.strip(), []).append(tag)
    return tags


def _check_git(root: Path) -> None:
    if _git(root, "rev-parse", "--git-dir", check=False).returncode:
        raise InputError(f"{root} is not a git repository: data versions are git revisions, so they need a clone")


def _git(root: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
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


# --- bringing a version here ---------------------------------------------------------------------------


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
        _obtain(root, commit, pointer, target)
    return Fetched(target, pointer.md5, commit)


def export(rev: str, target: Path) -> Pointer:
    """Writes the data of a revision to a file of its own; errors as of `fetch`."""
    root = find_root()
    commit, pointer = resolve(rev, root)
    _obtain(root, commit, pointer, target)
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
        commit, text = _at_revision(root, rev)
        pointer = _parse(text, f"{POINTER} at revision {rev}")
    else:
        commit, text, pointer = "", "", _working_pointer(root)
    now = file_md5(root / DATA) if (root / DATA).exists() else ""
    if now != pointer.md5 or rev:
        _check_saved(root, now, bool(rev))
    if now != pointer.md5:
        _obtain(root, commit, pointer, root / DATA)
    _cache_sample(root, pointer)
    if rev and (root / POINTER).read_text(encoding="utf-8") != text:
        with _written(root / POINTER) as temporary:
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
    with _dvc(root) as repo:
        config = _remote_config(repo)
        if not config:
            raise InputError(f"--data-rev {rev} needs a DVC remote that the cluster can read: `dvc remote add -d ...`")
        import dvc.api

        uri = dvc.api.get_url(POINTER.with_suffix("").as_posix(), repo=str(root), rev=commit, config=config)
        if "://" not in uri or uri.startswith("file://"):
            raise InputError(f"the DVC remote is a folder of this machine ({uri}), which steps elsewhere can't read")
        if not _in_remote(repo, [pointer.md5]):
            raise MissingError(f"the DVC remote doesn't hold {pointer.md5}, the data of {rev}; `dvc push` sends it")
    return str(uri)


def _working_pointer(root: Path) -> Pointer:
    try:
        return _parse((root / POINTER).read_text(encoding="utf-8"), str(POINTER))
    except FileNotFoundError:
        raise InputError(f"{root} has no {POINTER}: no data is versioned yet; `mlops data add FILE` does") from None


def _check_saved(root: Path, md5: str, leaving: bool) -> None:
    """Makes sure that the bytes in place can be had again, and with `leaving`, that git knows of them."""
    if not md5:
        return
    place = f"{DATA} (md5 {md5[:12]})"
    known = {pointer.md5: pointer for *_, pointer in _history(root)} if (root / ".git").exists() else {}
    if md5 not in known:
        if (root / POINTER).exists() and _working_pointer(root).md5 == md5:
            if not leaving:
                return
            raise InputError(f"{place} was added, but not committed: `git commit {POINTER}` keeps it; then go on")
        raise InputError(
            f"{place} is in no version and would be lost: `mlops data add {DATA}` saves it as one, or move it away"
        )
    if not known[md5].sample:
        from dvc.fs import localfs

        # brought here without the cache, by hand or by a version of ours: it must be possible to come back
        with _dvc(root) as repo:
            if not repo.cache.local.exists(md5):
                repo.cache.local.add(str(root / DATA), localfs, md5)


def _cache_sample(root: Path, pointer: Pointer) -> None:
    """Puts the sample in place into DVC's cache, past which it was made: `dvc status` would miss it there."""
    usual = root / ".dvc" / "cache" / "files" / "md5" / pointer.md5[:2] / pointer.md5[2:]
    # without DVC or git the sample is all there is, and works
    if pointer.sample and not usual.exists() and (root / ".git").exists() and find_spec("dvc"):
        from dvc.fs import localfs

        with _dvc(root) as repo:
            if not repo.cache.local.exists(pointer.md5):
                repo.cache.local.add(str(root / DATA), localfs, pointer.md5)


def _obtain(root: Path, commit: str, pointer: Pointer, target: Path) -> None:
    """Writes the bytes of a version: makes the sample, or takes them from the cache or the remote."""
    made = ""
    with _written(target) as temporary:
        if pointer.sample:
            from matchmaking.sample import generate_file

            rows, seed = pointer.sample
            generate_file(temporary, rows, seed)
            made = file_md5(temporary)
            if made == pointer.md5:
                return
        with _dvc(root) as repo:
            config = _remote_config(repo)
            cached = repo.cache.local.exists(pointer.md5)
            if not cached and not (config and _in_remote(repo, [pointer.md5])):
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
def _written(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` when all went well and vanishes when not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


# --- adding and listing --------------------------------------------------------------------------------


def add(file: Path, message: str = "", *, commit: bool = True) -> tuple[Pointer, bool]:
    """Makes a file the data's newest version: checks it, stores it, sends it to the default remote, commits.

    On any failure data, pointer and git are as they were before.

    Args:
        file: a CSV file of pairs with their outcomes, plain or gzip (it is stored plain).
        message: of the commit; empty for one that names the version.
        commit: whether to commit the pointer, and nothing else.

    Returns:
        The new version, and whether it was sent to a remote.

    Raises:
        InputError: the file breaks the schema, is the current version already, or what is in place isn't saved.
        RemoteError: the remote doesn't answer.
    """
    from matchmaking.schema import check_enough, read_pairs

    root = find_root()
    _check_git(root)
    if commit and _git(root, "var", "GIT_AUTHOR_IDENT", check=False).returncode:
        raise InputError("git doesn't know who you are: set user.name and user.email with `git config`")
    pairs, _ = read_pairs(file, source=str(file))
    check_enough(pairs, str(file))
    with ExitStack() as undo:
        plain = root / DATA.with_name(f".{DATA.name}.{os.getpid()}.new")
        undo.callback(plain.unlink, missing_ok=True)
        _copy_plain(file, plain)
        md5 = file_md5(plain)
        if (root / POINTER).exists() and _working_pointer(root).md5 == md5 and not _uncommitted(root):
            raise InputError(f"{file} is the current version already (md5 {md5})")
        now = file_md5(root / DATA) if (root / DATA).exists() else ""
        if now != md5:
            _check_saved(root, now, leaving=False)
        with _dvc(root) as repo:
            remote = bool(_remote_config(repo))
            if remote:
                # before anything is changed
                _in_remote(repo, [md5])
            for path in (root / DATA, root / POINTER):
                _restored(undo, path)
            plain.replace(root / DATA)
            # a pointer of its own, without what the last one says of its data
            (root / POINTER).unlink(missing_ok=True)
            repo.add(str(root / DATA))
            with (root / POINTER).open("a", encoding="utf-8") as pointer:
                # where `versions` finds it without reading data
                pointer.write(f"meta:\n  rows: {len(pairs)}\n")
            if remote:
                from dvc.fs import localfs

                try:
                    # not `repo.push`, which says that it failed, but not why
                    repo.cloud.get_remote_odb().add(str(root / DATA), localfs, md5)
                except Exception as error:
                    raise _remote_error(error) from error
        if commit:
            name = POINTER.as_posix()
            undo.callback(_git, root, "reset", "--quiet", "--", name, check=False)
            _git(root, "add", "--", name)
            _git(root, "commit", "--quiet", "--only", "-m", message or f"Data version {md5[:12]}", "--", name)
        undo.pop_all()
    for leftover in (root / "data").glob(f".*.{os.getpid()}.*"):
        leftover.unlink()
    return _working_pointer(root), remote


def on_no_branch() -> bool:
    """Whether a commit made now would be on no branch (a detached HEAD), and so be lost with the next checkout."""
    return _git(find_root(), "symbolic-ref", "--quiet", "HEAD", check=False).returncode != 0


def versions() -> tuple[list[Version], str]:
    """The data's history, newest first, and why the remote couldn't be asked (empty if it could).

    Raises:
        InputError: not in a clone.
    """
    root = find_root()
    history, tags = _history(root), _tags(root)
    here = file_md5(root / DATA) if (root / DATA).exists() else ""
    wanted = list({pointer.md5 for *_, pointer in history})
    with _dvc(root) as repo:
        cached = set(repo.cache.local.oids_exist(wanted))
        held: set[str] | None = None
        trouble = ""
        if _remote_config(repo):
            try:
                held = set(_in_remote(repo, wanted))
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


def _uncommitted(root: Path) -> bool:
    return bool(_git(root, "status", "--porcelain", "--", POINTER.as_posix()).stdout.strip())


def _copy_plain(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
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


# --- DVC -----------------------------------------------------------------------------------------------


@contextmanager
def _dvc(root: Path) -> Iterator[Repo]:
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


def _remote_config(repo: Repo) -> dict[str, Any]:
    """The default remote of now, as configuration for DVC at an earlier revision; empty for none."""
    name = repo.config["core"].get("remote")
    if not name:
        return {}
    if name not in repo.config["remote"]:
        raise InputError(f".dvc/config names {name} as the default remote, but has no such remote")
    return {"core": {"remote": name}, "remote": {name: dict(repo.config["remote"][name])}}


def _in_remote(repo: Repo, md5s: list[str]) -> list[str]:
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
        raise _remote_error(failure[0]) from failure[0]
    raise RemoteError(f"the DVC remote didn't answer within {seconds:.0f} s; nothing was changed")


def _remote_error(error: Exception) -> MlopsError:
    # the cause says more than DVC's own words: which address, which status
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return RemoteError(redact(f"the DVC remote can't be used: {reason}; nothing was changed"))
