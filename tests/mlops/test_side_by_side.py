"""Steps of a loop run side by side: whole lines, one failure ends it, Ctrl-C does at once, nothing is left changed."""

import builtins
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local

from mlops.local.steps import in_kfps_place
from mlops.local.watch import Watcher


@dsl.component(install_kfp_package=False)
def loud(item: int, folder: str, seconds: float, failing: int) -> int:
    import sys
    import time
    from pathlib import Path

    Path(folder, str(item)).touch()
    for _ in range(200):
        # in pieces, as a program writes that is in no hurry
        sys.stdout.write(f"<{item}")
        sys.stdout.flush()
        sys.stdout.write(f"-{item}>\n")
    time.sleep(seconds)
    if item == failing:
        sys.exit(7)
    return item


@dsl.pipeline(name="loop")
def loop(folder: str, seconds: float = 0.0, failing: int = -1) -> None:
    with dsl.ParallelFor([0, 1, 2, 3, 4, 5], parallelism=2) as item:
        loud(item=item, folder=folder, seconds=seconds, failing=failing)


def run(tmp_path: Path, **arguments: Any) -> Watcher:
    """Runs the loop; its items leave a file each in `begun`."""
    (tmp_path / "begun").mkdir()
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "steps"))
    watcher = Watcher(io.StringIO(), lambda step: None, None)
    with redirect_stdout(watcher), in_kfps_place(watcher, str(tmp_path), None):
        loop(folder=str(tmp_path / "begun"), **arguments)
    return watcher


def test_lines_come_whole_and_nothing_is_left_changed(tmp_path: Path) -> None:
    before = builtins.print, logging.getLogger().handlers[:], logging.getLogger().level
    interrupts = signal.getsignal(signal.SIGINT)
    watcher = run(tmp_path)
    assert isinstance(watcher.log, io.StringIO)
    said = [line.strip() for line in watcher.log.getvalue().splitlines() if "<" in line]
    assert sorted(said) == sorted(f"<{item}-{item}>" for item in range(6) for _ in range(200))
    assert (builtins.print, logging.getLogger().handlers[:], logging.getLogger().level) == before
    assert signal.getsignal(signal.SIGINT) is interrupts


def test_what_on_step_prints_may_come_to_the_watcher_itself() -> None:
    """As it does where steps are told by `print`: standard output is the watcher while a pipeline runs."""
    log = io.StringIO()
    watcher = Watcher(log, lambda step: print(f"begun: {step}", file=watcher), None)
    thread = threading.Thread(target=watcher.write, args=("Executing task 'ingest'\n",), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "begun: ingest\n" in log.getvalue()


def test_what_has_not_begun_when_one_fails_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Inner task failed"):
        run(tmp_path, failing=0)
    assert len(list((tmp_path / "begun").iterdir())) < 6


def test_ctrl_c_ends_those_that_run_and_those_to_come(tmp_path: Path) -> None:
    program = f"from pathlib import Path; from tests.mlops.test_side_by_side import run; run(Path({str(tmp_path)!r}), "
    process = subprocess.Popen(
        [sys.executable, "-c", program + "seconds=120.0)"],
        stderr=subprocess.PIPE,
        text=True,
        # what is started in the background ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "begun").exists() or len(list((tmp_path / "begun").iterdir())) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        # to the program alone: its steps are not asked
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in said
    assert len(list((tmp_path / "begun").iterdir())) == 2


@dsl.component(base_image="absent:0", install_kfp_package=False)
def contained(item: int) -> None:
    pass


@dsl.pipeline(name="contained-loop")
def contained_loop() -> None:
    with dsl.ParallelFor([0, 1, 2, 3], parallelism=2) as item:
        contained(item=item)


class NoEngine:
    """As much of a client of the Docker engine as kfp asks for; tests/services/test_docker.py has a real one."""

    def info(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ends", ["fails", "is interrupted"])
def test_containers_to_come_are_not_begun(ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kfp's own loop; in the containers' place is what ends as they do."""
    import docker
    from kfp.local import docker_task_handler

    begun: list[int] = []
    last = time.monotonic() + 60
    both = threading.Barrier(2, timeout=60)

    def run_container(client: NoEngine, image: str, command: list[str], volumes: Any, **options: Any) -> int:
        begun.append(len(begun))
        if len(begun) > 2:
            return 0
        if both.wait() == 0 and ends == "is interrupted":
            # once the loop waits for both: a signal that comes while it is about to wakes nobody
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGINT)
        # as containers do that are ended, not before
        while ends == "is interrupted" and not watcher.stopped and time.monotonic() < last:
            time.sleep(0.1)
        return int(ends == "fails")

    monkeypatch.setattr(docker, "from_env", NoEngine)
    monkeypatch.setattr(docker_task_handler, "run_docker_container", run_container)
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    local.init(runner=local.DockerRunner(), pipeline_root=str(tmp_path), workspace_root=str(tmp_path))
    watcher = Watcher(io.StringIO(), lambda step: None, None)
    try:
        with (
            pytest.raises(RuntimeError if ends == "fails" else KeyboardInterrupt),
            redirect_stdout(watcher),
            in_kfps_place(watcher, str(tmp_path), None),
        ):
            contained_loop()
    finally:
        signal.signal(signal.SIGINT, interrupts)
    assert len(begun) == 2
    assert docker_task_handler.run_docker_container is run_container
