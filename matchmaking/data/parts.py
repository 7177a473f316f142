"""What a dataset may be, and how it is brought here: one file, or parts of one kind in a folder or by a pattern.

Its *version* is the md5 of the file's bytes, which is what DVC calls it by. Of several parts it is the md5 of the lines
of their md5s, in the order in which they are read: it is another one where a part's bytes change, or their order or
number does, and the same whatever the parts are called and wherever they are. The same rows in other files are another
version.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.base.files import file_md5
from matchmaking.base.redact import redact

CSV, PARQUET = (".csv", ".csv.gz"), (".parquet",)
FORMATS = "a CSV file (plain or gzip), a Parquet file, or a folder or pattern of either"


def chosen(names: Iterable[str], source: str) -> list[str]:
    """The parts among a folder's files, in the order in which they are read: that of their names.

    Args:
        names: of all files in the folder and the folders in it.
        source: what to call the folder in messages.

    Returns:
        Those whose names, and those of their folders, begin with neither `.` nor `_`: writers leave such files beside
        the data (`_SUCCESS`), and what isn't finished.

    Raises:
        InputError: there is none, they are of both kinds, one is of neither, or two seem to be one and the same.
    """
    # a bucket may hold an object in the place of a folder
    shown = sorted(name for name in names if name.rpartition("/")[2] and not _hidden(name))
    by_kind = {
        "CSV": [name for name in shown if name.lower().endswith(CSV)],
        "Parquet": [name for name in shown if name.lower().endswith(PARQUET)],
    }
    others = [name for name in shown if not name.lower().endswith(CSV + PARQUET)]
    if not shown:
        raise InputError(f"{source} holds no part: there is no file whose name ends in {_listed(CSV + PARQUET)}")
    if others:
        raise InputError(
            f"{source} holds {visible(others[0])}, which is no part: names of parts end in {_listed(CSV + PARQUET)}; "
            "rename it, take it out, or give a pattern"
        )
    if all(by_kind.values()):
        csv, parquet = (visible(names[0]) for names in by_kind.values())
        raise InputError(f"{source} holds parts of both kinds ({csv}, {parquet}); give one of them by a pattern")
    called: dict[str, str] = {}
    for name in shown:
        ending = next(ending for ending in (".csv.gz", ".csv", ".parquet") if name.lower().endswith(ending))
        # as gzip leaves them where it is told to keep its input
        other = called.setdefault(name[: -len(ending)], name)
        if other != name:
            raise InputError(
                f"{source} holds {visible(other)} and {visible(name)}, which seem to be the same part twice; take one "
                "out, or give a pattern"
            )
    return shown


def parts_of(folder: Path, source: str | None = None) -> list[str]:
    """The names of the parts in a local folder; see `chosen`."""
    return chosen(storage.list_names(str(folder)), source or str(folder))


def fetch_dataset(uri: str, target: Path) -> str:
    """Brings a dataset here, a file as a file and parts as a folder, and gives its version.

    Raises:
        InputError: there is none; see `chosen`.
        StorageError: the store can't be reached, even after retries.
    """
    found = storage.matching(uri)
    if found is None and storage.download_if_there(uri, target):
        return version_of(target)
    folder, sizes = found or (uri, {} if _web(uri) else storage.list_sizes(uri))
    if not sizes and found is not None:
        raise InputError(f"{redact(uri)}: no file matches the pattern")
    if not sizes and (_web(uri) or not storage.is_folder(uri)):
        raise InputError(f"{redact(uri)} doesn't exist; give {FORMATS}")
    names = chosen(sizes, redact(uri))
    shutil.rmtree(target, ignore_errors=True)
    storage.download_folder(folder, names, target)
    # what is read from here on is what the disk calls them
    if (here := parts_of(target)) != names:
        shutil.rmtree(target)
        odd = next(name for name in names if name not in here)
        raise InputError(f"{redact(uri)}: {visible(odd)} can't be the name of a part on a disk; rename it")
    return version_of(target)


def dataset_files(uri: str) -> tuple[str, dict[str, int]]:
    """How many bytes each file of a dataset has, without reading it; the store is asked once, and not waited for.

    Returns:
        The parts' folder, and their bytes by their names in it; of one file an empty text, and its bytes by `uri`.

    Raises:
        InputError: see `fetch_dataset`.
        StorageError: the store can't be reached.
    """
    found = storage.matching(uri, once=True)
    if found is None:
        try:
            return "", {uri: storage.size(uri)}
        except InputError:
            if _web(uri):
                raise
        found = uri, storage.list_sizes(uri, once=True)
        if not found[1]:
            raise InputError(f"{redact(uri)} isn't there")
    folder, sizes = found
    return folder, {name: sizes[name] for name in chosen(sizes, redact(uri))}


def list_dataset(uri: str) -> tuple[str, dict[str, int]]:
    """How many bytes each part of a dataset has, without reading any; waits for a store that is away.

    Returns:
        The parts' folder, and their bytes by their names in it, in the order in which they are read. Of what isn't a
        folder two empty ones: it is one file, or nothing, as reading it will tell.

    Raises:
        InputError: see `fetch_dataset`.
        StorageError: the store can't be reached, even after retries.
    """
    found = storage.matching(uri)
    folder, sizes = found or (uri, {} if _web(uri) else storage.list_sizes(uri))
    if not sizes and found is not None:
        raise InputError(f"{redact(uri)}: no file matches the pattern")
    if not sizes and (_web(uri) or not storage.is_folder(uri)):
        return "", {}
    return folder, {name: sizes[name] for name in chosen(sizes, redact(uri))}


def version_of(path: Path) -> str:
    """The version of a dataset that is here: md5, in hex.

    Args:
        path: the file, or the folder of its parts.
    """
    if not path.is_dir():
        return file_md5(path)
    return version_together([file_md5(path / name) for name in parts_of(path)])


def version_together(hashes: list[str]) -> str:
    """The version of a dataset by the md5 of each of its files, in order."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.md5("".join(f"{each}\n" for each in hashes).encode(), usedforsecurity=False).hexdigest()


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _web(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def _listed(endings: Iterable[str]) -> str:
    return ", ".join(endings)
