"""The failures a user can cause or meet, each with the exit code the command line ends with."""


class MlopsError(Exception):
    """A failure told in one line: what happened, where, and what to do about it."""

    exit_code = 1


class InputError(MlopsError):
    """What the caller gave us is wrong: a file, a column, an option. Retrying cannot help."""

    exit_code = 2


class RefusedError(MlopsError):
    """What was asked for is possible, but the policy or the evidence forbids it."""

    exit_code = 3
