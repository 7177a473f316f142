"""URIs with a pattern in them, as `s3://bucket/pairs/part-*.parquet`: `*`, `?` and `[...]` within a name."""

from __future__ import annotations

import glob
import re
from fnmatch import fnmatchcase
from urllib.parse import unquote

from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.storage.backend import scheme_of
from matchmaking.storage.local import exists, files_in, local_path
from matchmaking.storage.operations import list_sizes


def matching(uri: str, *, once: bool = False) -> tuple[str, dict[str, int]] | None:
    """The files that a pattern stands for; None where a URI is none, as are all web addresses, and files of that name.

    Args:
        uri: with a pattern, or without.
        once: whether not to wait for a store that is away.

    Returns:
        The folder that they are in or below, and by their names in it, sorted, how many bytes each has.

    Raises:
        InputError: no right to list, or it is a pattern that has no meaning here, as `**`.
        StorageError: the store can't be reached, even after retries.
    """
    scheme = scheme_of(uri)
    if not glob.has_magic(uri) or scheme in ("http", "https"):
        return None
    if not scheme and exists(local_path(uri)):
        return None
    parts = uri.rstrip("/").split("/")
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    folder, wanted = "/".join(parts[:first]), parts[first:]
    if any("**" in part for part in wanted):
        # elsewhere it stands for any number of folders, or for what * does
        raise InputError(
            f"{redact(uri)}: ** is no pattern here; give the folder, of which all files count, or a * for each level"
        )
    if not scheme:
        # with a slash file:// is the root; without anything before the pattern it is the folder here
        base = local_path(f"{folder}/") if first else local_path(".")
        if uri.startswith("file://"):
            wanted = [re.sub("(?:%[0-9A-Fa-f]{2})+", _as_itself, part) for part in wanted]
        found = files_in(base, [part for part in wanted if part not in ("", ".")])
        return str(base), dict(sorted(found.items()))
    if first < 3:
        raise InputError(f"{redact(uri)}: only what follows the bucket's name may be a pattern")
    pattern = "/".join(wanted)
    there = list_sizes(folder, re.split(r"[*?[]", pattern)[0], once=once)
    # an object, or a folder, may be called so itself
    if pattern in there or any(name.startswith(f"{pattern}/") for name in there):
        return None

    def matches(name: str) -> bool:
        names = name.split("/")
        return len(names) == len(wanted) and all(map(fnmatchcase, names, wanted))

    return folder, {name: size for name, size in there.items() if matches(name)}


def _as_itself(quoted: re.Match[str]) -> str:
    """What stands in a file:// URI for characters that have no other meaning there."""
    return glob.escape(unquote(quoted[0], errors="surrogateescape"))
