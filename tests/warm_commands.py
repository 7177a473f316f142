"""The command line, forked for each call from a process that has imported it, with the warm processes of its runs.

`python -m tests.warm_commands` reads a JSON line a call: `arguments`, `env`, `folder` (where it stands) and `said` (the
files for standard output and error); and answers each with its exit code. A call is a process of its own, as a user's
is, and so are its steps; but the processes that `mlops run` forks steps from are those of all calls here, as importing
them takes longer than most of what a test runs. Tests of how a command begins start the installed script themselves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mlops.local import warm

# seconds that a call may take
PATIENCE = 600


class Commands:
    """A process that runs `mlops`, for one that tests."""

    def __init__(self) -> None:
        # started here, no import of the current folder's gets in: `tests` is found, as in the tests themselves
        command = [sys.executable, "-m", "tests.warm_commands"]
        root = Path(__file__).parents[1]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # it goes on in a fork
        assert self.process.wait(60) == 0

    def __call__(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line as a user does, 100 columns wide."""
        assert self.process.stdin and self.process.stdout
        given = [*map(str, arguments)]
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(folder, name) for name in ("stdout", "stderr")]
            job = {
                "arguments": given,
                "env": {**os.environ, "COLUMNS": "100", **env},
                "folder": str(Path.cwd()),
                "said": [*map(str, said)],
            }
            self.process.stdin.write(f"{json.dumps(job)}\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            if code == -signal.SIGALRM:
                raise subprocess.TimeoutExpired(given, PATIENCE)
            printed = [path.read_bytes().decode() for path in said]
        return subprocess.CompletedProcess(["mlops", *given], code, *printed)

    def close(self) -> None:
        """Ends it, and waits for that."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        assert not self.process.stdout.read()


def call(job: dict[str, Any], nursery: warm.Nursery) -> int:
    """The exit code of a call, in a fork."""
    child = os.fork()
    if child == 0:
        become(job, nursery)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def become(job: dict[str, Any], nursery: warm.Nursery) -> None:
    """Is the call from here on; never returns."""
    found = 1
    try:
        signal.alarm(PATIENCE)
        places = [os.open(os.devnull, os.O_RDONLY), *(os.open(path, os.O_WRONLY | os.O_CREAT) for path in job["said"])]
        for number, place in enumerate(places):
            os.dup2(place, number)
            os.close(place)
        os.environ.clear()
        os.environ.update(job["env"])
        os.chdir(job["folder"])
        for stream in (sys.stdout, sys.stderr):
            # read when an interpreter starts
            stream.reconfigure(encoding=os.environ.get("PYTHONIOENCODING", "utf-8"))  # type: ignore[union-attr]
        tempfile.tempdir = None

        def shared(runner: str, pipeline: str) -> AbstractContextManager[warm.Nursery | None]:
            return nullcontext(nursery if runner == "subprocess" else None)

        warm.nursery = shared
        from mlops.cli.app import main

        sys.argv = ["mlops", *job["arguments"]]
        try:
            main()
            found = 0
        except SystemExit as ended:
            found = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        warm._end(found)


def serve() -> None:
    with warm.Nursery("monitor") as nursery:
        for kind in warm.IMPORTS:
            nursery._start(kind)
        from kfp import local  # noqa: F401

        import mlops.cli.app
        import mlops.local.run  # noqa: F401  what most calls need

        for line in sys.stdin:
            print(call(json.loads(line), nursery), flush=True)


if __name__ == "__main__":
    # no child of the tests: what they run in their own process may end, or count, all children of that
    if os.fork():
        os._exit(0)
    os.setsid()
    serve()
