"""The failures a user can cause or meet, each with the exit code the command line ends with."""

from __future__ import annotations

import errno


class MlopsError(Exception):
    """A failure told in one line: what happened, where, and what to do about it."""

    exit_code = 1
    # whether people have heard of it, so that it is no further notification
    told = False


class InputError(MlopsError):
    """What the caller gave us is wrong: a file, a column, an option. Retrying cannot help."""

    exit_code = 2


class RefusedError(MlopsError):
    """What was asked for is possible, but the policy or the evidence forbids it."""

    exit_code = 3


# the machine's or the file system's own limits: what was asked for isn't wrong, there is no room for it
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM})


def cannot_write(place: object, error: OSError) -> MlopsError:
    """The failure of a write: an `InputError` where the place is wrong, else (a full disk, say) the machine's."""
    kind = MlopsError if error.errno in NO_ROOM else InputError
    return kind(f"{place} can't be written: {error.strerror or error}")
