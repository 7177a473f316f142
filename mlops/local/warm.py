"""Warm processes: steps of a local run are forked from one that has imported what they need.

Importing is most of a step's time (TensorFlow takes longer than most steps' work), and each step is a process of its
own, so that one that crashes or takes all memory takes nothing else along. Forked from a process that has imported the
libraries and done nothing with them, it still is, and begins at once.

A `Nursery` is started before anything slow is imported here, and its processes import while this one does. They are a
tree: `root` imports what all need; forked from it, one for each kind of step imports what that kind needs besides:
`base` for most, others with what is nothing for the rest (TensorFlow, Evidently, matplotlib). So hardly anything is
imported twice, which counts as long as they all import at once on a few cores. Each serves requests on a socket of its
own, once it has imported everything, for several steps at a time, and ends when that is closed, which the end of this
process does too, whatever ends it. The libraries' own threads (OpenBLAS, jemalloc) have handlers for a fork; no work is
given to any of them before.

Linux only: elsewhere forking after imports isn't safe, and steps are started anew.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

from matchmaking.base.garbage import without_collections

SUPPORTED = sys.platform == "linux"
# what each kind imports beyond the one it is forked from; a module that isn't there is left to the step that wants it
IMPORTS = {
    "root": (
        "kfp.dsl.executor_main",
        "matchmaking.tracking.step",
        "pandas",
        "pyarrow.parquet",
        "sklearn.metrics",
    ),
    "base": (
        "mlflow",
        "mlflow.store.tracking.sqlalchemy_store",
        "matchmaking.inputs.ingest",
        "matchmaking.inputs.validate",
        "matchmaking.inputs.split",
        "matchmaking.evidence.compare",
    ),
    "model": (
        "tensorflow",
        "keras",
        "matchmaking.model.train",
        "sklearn.model_selection",
        "matchmaking.evidence.evaluate",
    ),
    "drift": (
        "matchmaking.data.drift",
        "evidently",
        "evidently.presets",
    ),
    "report": (
        "matchmaking.reporting.report",
        "matchmaking.release.registry",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "jinja2",
        "matchmaking.reporting.html",
    ),
}
# the kind that each is forked from
FROM = {"base": "root", "model": "root", "drift": "root", "report": "base"}
# the kind that a component's step is forked from, where that isn't base
KIND = {
    "train": "model",
    "trial": "model",
    "evaluate": "model",
    "shard": "model",
    "score": "model",
    "drift": "drift",
    "observe": "model",
    "experiment": "report",
    "report": "report",
}
# the kinds that the steps of each pipeline need, in the order in which they do; the last step's comes later, when one
# that takes long has begun: what is imported at once waits for each other
WANTED = {
    "retrain": ("base", "model"),
    "sweep": ("base", "model"),
    "evaluate": ("base", "model"),
    "evaluate-parts": ("base", "model"),
    "monitor": ("base", "model", "drift"),
    "monitor-parts": ("base", "model", "drift"),
    "observe": ("base", "model"),
    # whose second step draws, too
    "experiment": ("base", "report"),
}
LATER = "report"
# bytes of a request's length
_LENGTH = 8


class Nursery:
    """The warm processes of some runs; closed at their end.

    Args:
        pipeline: the first that will run.
    """

    def __init__(self, pipeline: str) -> None:
        """Starts the processes that the first pipeline needs."""
        self._sockets: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._sockets["root"], theirs = socket.socketpair()
        with theirs:
            self._root = subprocess.Popen(
                [sys.executable, "-P", "-m", "mlops.local.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # as for steps: libraries read it while they are imported
                env={**os.environ, "_KFP_RUNTIME": "true"},
                # of its own, with all that is forked from it: Ctrl-C is for this process, which ends them
                process_group=0,
            )
        self.prepare(pipeline)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()
        # one that is importing doesn't see yet that nobody asks any more
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGKILL)
        self._root.wait()

    def prepare(self, pipeline: str) -> None:
        """Has processes begin to import that the steps of a pipeline are forked from."""
        for kind in WANTED[pipeline]:
            self._start(kind)

    def _start(self, kind: str) -> None:
        if kind in self._sockets:
            return
        self._start(FROM[kind])
        self._sockets[kind], theirs = socket.socketpair()
        with theirs:
            # where that fails, so does asking for a step
            _send(self._sockets[FROM[kind]], {"kind": kind}, [theirs.fileno()])

    def step(self, component: str, arguments: list[str], env: Mapping[str, str], output: int) -> socket.socket | None:
        """Forks a process that runs KFP's executor; steps may be asked for by several threads.

        Args:
            component: the component's name.
            arguments: of `kfp.dsl.executor_main`.
            env: its environment, whole.
            output: the descriptor that takes what it prints.

        Returns:
            Where `code` reads how it ended; None if there is no warm process to fork it from.
        """
        kind = KIND.get(component, "base")
        with self._lock:
            if kind != "base":
                self._start(LATER)
            found = self._sockets.get(kind)
            if found is None:
                return None
            ours, theirs = socket.socketpair()
            with theirs:
                if _send(found, {"arguments": arguments, "env": dict(env)}, [output, theirs.fileno()]):
                    return ours
            ours.close()
            return None


def nursery(runner: str, pipeline: str) -> contextlib.AbstractContextManager[Nursery | None]:
    """The warm processes of a runner; None of one that has none."""
    return Nursery(pipeline) if runner == "subprocess" and SUPPORTED else contextlib.nullcontext()


def code(step: socket.socket) -> int | None:
    """The exit code of a step, once it has ended: negative for a signal; None if nobody knows."""
    with step:
        try:
            answer = step.recv(_LENGTH, socket.MSG_WAITALL)
        except OSError:
            return None
    return int.from_bytes(answer, "big", signed=True) if len(answer) == _LENGTH else None


def _send(to: socket.socket, request: dict[str, Any], descriptors: list[int]) -> bool:
    body = json.dumps(request).encode()
    try:
        socket.send_fds(to, [len(body).to_bytes(_LENGTH, "big")], descriptors)
        to.sendall(body)
    except OSError:
        return False
    return True


def _request(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """What is asked for, with its descriptors; None when nobody asks more.

    Of a step those for what it prints and for its exit code, of a warm process that of its own requests.
    """
    head, descriptors, _, _ = socket.recv_fds(requests, _LENGTH, 2, socket.MSG_WAITALL)
    if len(head) < _LENGTH:
        return None
    return json.loads(requests.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)), descriptors


def serve(requests: socket.socket, kind: str) -> None:
    """A warm process: imports what its kind has, and forks a step, or another kind, whenever it is asked to."""
    with without_collections():
        for name in IMPORTS[kind]:
            # a step that needs it tells why it isn't there
            with contextlib.suppress(Exception):
                __import__(name)
        # hardly anything that is here by now is garbage: no process that is forked looks through it
        gc.freeze()
    steps: dict[int, tuple[int, int]] = {}  # process id, and where its exit code goes, by descriptor
    while True:
        watched: list[socket.socket | int] = [requests, *steps]
        ready, _, _ = select.select(watched, [], [])
        for each in ready:
            if not isinstance(each, int):
                asked = _request(requests)
                if asked is None:
                    return
                request, descriptors = asked
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads; see above
                    child = os.fork()
                if child == 0:
                    requests.close()
                    # or who waits for another step's end would wait for this one's
                    for place in (*steps, *(answer for _, answer in steps.values())):
                        os.close(place)
                    _become(request, descriptors)
                if "kind" in request:
                    os.close(descriptors[0])
                    continue
                output, answer = descriptors
                os.close(output)
                steps[os.pidfd_open(child)] = child, answer
            else:
                process, answer = steps.pop(each)
                _, status = os.waitpid(process, 0)
                os.close(each)
                # nobody may wait any more
                with contextlib.suppress(OSError):
                    os.write(answer, os.waitstatus_to_exitcode(status).to_bytes(_LENGTH, "big", signed=True))
                os.close(answer)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Is the step, or the warm process, from here on; never returns."""
    found = 1
    try:
        if "kind" in request:
            serve(socket.socket(fileno=descriptors[0]), request["kind"])
        else:
            output, answer = descriptors
            os.close(answer)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            os.environ.clear()
            os.environ.update(request["env"])
            found = _run(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        _end(found)


def _run(arguments: list[str]) -> int:
    import tempfile

    from kfp.dsl import executor_main

    tempfile.tempdir = None  # it is asked for anew, in this environment
    sys.argv = ["executor_main", *arguments]
    try:
        executor_main.executor_main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _end(found: int) -> None:
    """Ends as an interpreter does, but for taking the libraries down, which takes as long as importing them."""
    import atexit

    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(found & 0xFF)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), "root")
