"""Every URI the project reads or writes."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from matchmaking.errors import InputError
from matchmaking.schema import file_sha256


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes; the copy is whole or absent, and writable whatever the source is."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def download(uri: str, target: Path) -> None:
    """Brings one file here.

    Raises:
        InputError: there is no such file.
    """
    source = local_path(uri)
    if source.is_dir():
        raise InputError(f"{uri} is a folder; give a CSV file")
    if not source.exists():
        raise InputError(f"{uri} doesn't exist; give the path of a CSV file")
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_file(source, target)


def download_bundle(uri: str, names: tuple[str, ...], target: Path) -> bool:
    """Brings the named files of a folder here; False where the folder is there but holds none of them.

    Raises:
        InputError: there is no such folder, or only some of the files are in it.
    """
    folder = local_path(uri)
    if not folder.is_dir():
        raise InputError(
            f"{uri}: no such folder; a production folder holds {', '.join(names)}, or is empty (or left out) "
            "to bootstrap a first model"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if len(missing) == len(names):
        return False
    if missing:
        raise InputError(f"{uri}: {', '.join(missing)} is missing; a production folder holds {', '.join(names)}")
    for name in names:
        copy_file(folder / name, target / name)
    return True


def publish(folder: Path, uri: str) -> str:
    """Copies a folder to a URI, whole or not at all; gives the URI back.

    Raises:
        InputError: something is there already, or the place cannot be written.
    """
    target = local_path(uri)
    if target.exists():
        raise InputError(f"{uri} exists already; a published candidate is never overwritten")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, temporary, copy_function=shutil.copyfile)
        os.rename(temporary, target)
    except OSError as error:
        raise InputError(f"{uri} can't be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return uri


def local_path(uri: str) -> Path:
    """The path behind a local URI."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    if "://" in uri:
        raise InputError(f"{uri}: only local paths can be used in this version")
    return Path(uri)


def hash_bundle(uri: str, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of the named files of a folder, by name; absent ones are left out."""
    folder = local_path(uri)
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
