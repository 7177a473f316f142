"""Steps of a local run: what kfp.local has to do differently while one goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from mlops.local.warm import Nursery, code
from mlops.local.watch import Watcher


@contextmanager
def in_kfps_place(watcher: Watcher, scratch: str, nursery: Nursery | None) -> Iterator[None]:
    """For as long as it lasts, steps run as `_run_step` says, and several at once don't get into each other's way.

    kfp.local runs those of a loop in threads, of which each takes the process's logging and `print` for its own and
    puts them back when it is done: here they are the same from the first step to the last. And it waits for all of a
    loop before it takes notice of Ctrl-C.
    """
    from kfp.local import config, logging_utils, subprocess_task_handler

    def interrupted(number: int, frame: FrameType | None) -> None:
        watcher.stopped = True
        for end in ends:
            end()
        raise KeyboardInterrupt

    ends: list[Callable[[], None]] = [end_children]
    replaced: list[tuple[Any, str, Any]] = [
        (logging_utils, "local_logger_context", nullcontext),
        (logging_utils, "indented_print", nullcontext),
        (subprocess_task_handler, "run_local_subprocess", partial(_run_step, watcher, scratch, nursery)),
    ]
    if isinstance(config.LocalExecutionConfig.instance.runner, config.DockerRunner):
        from kfp.local import docker_task_handler

        from mlops.local.containers import begin_containers, end_containers

        in_container = partial(_run_in_container, watcher, docker_task_handler.run_docker_container)
        replaced.append((docker_task_handler, "run_docker_container", in_container))
        begin_containers()
        ends.append(end_containers)
    kept = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    # where Ctrl-C does what Python does
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with logging_utils.local_logger_context():
        try:
            for module, name, value in replaced:
                setattr(module, name, value)
            if ours:
                signal.signal(signal.SIGINT, interrupted)
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            for module, name, value in kept:
                setattr(module, name, value)


def _run_step(
    watcher: Watcher,
    scratch: str,
    nursery: Nursery | None,
    full_command: list[str],
    env_vars: dict[str, str] | None = None,
) -> int:
    """Runs one step in kfp's place, apart from where the user happens to stand, and notes how it died.

    The step imports what is installed and nothing of the current folder (`-P`): not a `random.py` that lies there, not
    another checkout of this project. Its temporary files are in `scratch`, which ends with the run.
    """
    component = _component(full_command)
    if _is_over(watcher, component):
        return 1
    env = {**os.environ, **(env_vars or {}), "TMPDIR": scratch}
    watcher.own.last = ""
    found = _forked(watcher, nursery, full_command, env, scratch) if nursery else None
    if found is None:
        found = _spawned(watcher, full_command, env)
    if found:
        watcher.failed.add(component)
    # a shell that waits for it says 128 and the signal
    number = -found if found < 0 else found - 128
    if watcher.died or watcher.stopped:
        # of several at once, what the first of them died of
        return found
    if number in set(signal.Signals):
        watcher.died = f"ended by {signal.Signals(number).name}" + (
            ", as the system does where memory runs out" if number == signal.SIGKILL else ""
        )
    elif found:
        watcher.died = f"ended with exit code {found}" + (f": {watcher.own.last}" if watcher.own.last else "")
    return found


def _run_in_container(watcher: Watcher, run: Callable[..., int], *args: Any, command: list[str], **options: Any) -> int:
    """Runs one step's container, unless the run is over; as `kfp.local.docker_task_handler` calls it."""
    component = _component(command)
    if _is_over(watcher, component):
        return 1
    found = -1
    try:
        found = run(*args, command=command, **options)
    finally:
        if found:
            watcher.failed.add(component)
    return found


def _component(command: list[str]) -> str:
    named = "--function_to_execute"
    return command[command.index(named) + 1] if named in command else ""


def _is_over(watcher: Watcher, component: str) -> bool:
    """Whether a step isn't to begin any more: kfp goes on with the others of a loop, of which one has failed."""
    return watcher.stopped or bool(component and component in watcher.failed)


def _forked(
    watcher: Watcher, nursery: Nursery, full_command: list[str], env: dict[str, str], scratch: str
) -> int | None:
    """The exit code of a step forked from a warm process; None if it wasn't.

    KFP's command is a shell script that writes the component's source ($0) to a file and has the executor run it, with
    the arguments that follow.
    """
    _, _, _, source, *arguments = full_command
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    path = Path(tempfile.mkdtemp(dir=scratch)) / "ephemeral_component.py"
    path.write_text(source)
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as printed:
        try:
            step = nursery.step(
                given["--function_to_execute"],
                ["--component_module_path", str(path), *arguments],
                {**env, "_KFP_RUNTIME": "true"},
                writing,
            )
        finally:
            os.close(writing)
        if step is None:
            return None
        _show(watcher, printed)
    # a warm process that died with its step took the answer along
    found = code(step)
    return -signal.SIGKILL if found is None else found


def _spawned(watcher: Watcher, full_command: list[str], env: dict[str, str]) -> int:
    # kfp puts the interpreter's path into a shell script as it is
    python = f"{shlex.quote(sys.executable)} -P -m kfp.dsl.executor_main"
    command = [part.replace(f"{sys.executable} -m kfp.dsl.executor_main", python) for part in full_command]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        bufsize=1,
        env=env,
    ) as process:
        assert process.stdout
        _show(watcher, process.stdout)
        return process.wait()


def _show(watcher: Watcher, printed: Iterable[str]) -> None:
    """What a step prints, set off from what kfp does."""
    for line in printed:
        watcher.write(f"    {line}")
    watcher.write("\n\n")


def end_children() -> None:
    """A step that was running when only this process was told to end."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        child.kill()
