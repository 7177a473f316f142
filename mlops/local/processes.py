"""Programs that end when this process does, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from matchmaking.base.errors import InputError

# seconds
PATIENCE = 5
# Ends process groups when stdin does, which it does when this process has ended in any way. Its lines are + and - with
# the number of a group. First gently: a service may have something to finish.
GUARD = """
trap '' HUP INT TERM
groups=' '
while read -r sign group; do
  case $sign in
    +) groups="$groups$group " ;;
    -) case $groups in *" $group "*) groups="${groups%%" $group "*} ${groups#*" $group "}" ;; esac ;;
  esac
done
for signal in TERM KILL; do
  for group in $groups; do kill -s $signal -- "-$group" 2>/dev/null && left=1; done
  [ "${left:-}" ] || exit 0
  [ $signal = KILL ] || sleep 2
done
"""


class Processes:
    """Processes that end with this one, each of a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.guard = subprocess.Popen(["sh", "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)

    def start(self, name: str, command: list[str], **env: str) -> None:
        """Starts a program; what it prints goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            try:
                started = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **env},
                )
            except OSError as error:
                raise InputError(f"{command[0]} can't be started: {error.strerror}") from None
        self._tell("+", started.pid)
        self.running[name] = started

    def ended(self, name: str) -> int | None:
        """How a program ended; None while it runs."""
        return self.running[name].poll()

    def last_words(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def stop(self, name: str, how: signal.Signals, patience: float) -> None:
        """Ends a program and what it has started: first as said, then for good."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._tell("-", process.pid)

    def close(self) -> None:
        """Ends what still runs."""
        for name in list(self.running):
            self.stop(name, signal.SIGTERM, PATIENCE)
        if self.guard.stdin:
            self.guard.stdin.close()
        self.guard.wait()

    def _tell(self, sign: str, group: int) -> None:
        if self.guard.stdin:
            self.guard.stdin.write(f"{sign} {group}\n".encode())
            self.guard.stdin.flush()
