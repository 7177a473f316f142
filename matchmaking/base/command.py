"""A command line of the installation's own, run without a shell and with an end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from matchmaking.base.redact import redact

# of what it said, the end
_SAID = 300


def run_command(command: str | Sequence[str], seconds: float, what: str) -> str | None:
    """Runs a command; whatever it has started is ended with it when it takes too long.

    Args:
        command: the program and its arguments, quoted as for a shell; or each of them as it is.
        seconds: how long it may take.
        what: it is called in the answer, "the restart command".

    Returns:
        Why it failed, with the end of what it said and without credentials; None where it didn't.
    """
    # a file, not a pipe: a service that goes on running would hold a pipe open
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                shlex.split(command) if isinstance(command, str) else list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            return f"{what} can't be run: {error}"
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{what} didn't end in {seconds:g} s"
        if code:
            output.seek(0)
            said = " ".join(output.read().decode(errors="replace").split())[-_SAID:]
            return f"{what} failed with exit code {code}: {redact(said) or 'it said nothing'}"
    return None
