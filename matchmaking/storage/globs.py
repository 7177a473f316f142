"""URIs with a pattern in them, as `s3://bucket/pairs/part-*.parquet`: `*`, `?` and `[...]` within a name."""

from __future__ import annotations

import glob
from fnmatch import fnmatchcase
from pathlib import Path

from matchmaking.storage.backend import scheme_of
from matchmaking.storage.local import local_path
from matchmaking.storage.operations import list_sizes


def matching(uri: str) -> tuple[str, dict[str, int]] | None:
    """The files that a pattern stands for; None where a URI is none, as are all web addresses, and files of that name.

    Returns:
        The folder that they are in or below, and by their names in it, sorted, how many bytes each has.

    Raises:
        InputError: no right to list.
        StorageError: the store can't be reached, even after retries.
    """
    if not glob.has_magic(uri) or scheme_of(uri) in ("http", "https"):
        return None
    if not scheme_of(uri):
        path = local_path(uri)
        if path.exists():
            return None
        base = Path(_before_pattern(str(path))[0] or ".")
        found = {each.relative_to(base).as_posix(): each for each in base.glob(str(path.relative_to(base)))}
        return str(base), {name: found[name].stat().st_size for name in sorted(found) if found[name].is_file()}
    folder, pattern = _before_pattern(uri)
    wanted = pattern.split("/")

    def matches(name: str) -> bool:
        parts = name.split("/")
        return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))

    # an object may be called so itself
    there = list_sizes(folder)
    return folder, {name: size for name, size in there.items() if name == pattern or matches(name)}


def _before_pattern(uri: str) -> tuple[str, str]:
    """The folder before the first name that is a pattern, and the pattern."""
    parts = uri.split("/")
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or ("/" if first else ""), "/".join(parts[first:])
