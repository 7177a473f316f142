"""Steps of a loop in containers: Ctrl-C and a failure end it, and leave none. They need an engine and `make images`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from matchmaking.base.settings import image
from mlops.local import containers
from tests.services.test_docker import docker_test, engine, left_behind

# a fixture
__all__ = ["engine"]

LOOP = """
import io, sys
from contextlib import redirect_stdout
from kfp import local
from mlops.local import containers
from mlops.local.steps import in_kfps_place
from mlops.local.watch import Watcher
from tests.services.looped_component import slow_loop

folder, failing = sys.argv[1:]
given, runner = containers.docker_runner({"candidates": folder + "/candidates"})
local.init(runner=runner, pipeline_root=folder + "/steps", workspace_root=folder + "/workspace")
watcher = Watcher(io.StringIO(), lambda step: None, sys.stderr)
with redirect_stdout(watcher), in_kfps_place(watcher, folder, None):
    slow_loop(failing=int(failing))
"""


def looped(folder: Path, failing: int = -1) -> subprocess.Popen[str]:
    """Begins the loop of `looped_component` in a process of its own; what it says is in `said`."""
    for name in ("steps", "workspace"):
        (folder / name).mkdir()
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder), str(failing)],
            stderr=said,
            env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
            # what is started in the background ignores Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@docker_test
def test_ctrl_c_ends_the_containers_that_run_and_those_to_come(engine: Any, tmp_path: Path) -> None:
    other = engine.containers.create(image("base"), ["sleep", "120"], entrypoint="", **containers.options({}))
    process = looped(tmp_path)
    try:
        other.start()
        while (tmp_path / "said").read_text().count("begun: ") < 2:
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        assert len(left_behind(engine, tmp_path)) == 2
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert time.monotonic() - begun < 20
        said = (tmp_path / "said").read_text()
        assert "KeyboardInterrupt" in said
        assert said.count("begun: ") == 2
        assert not left_behind(engine, tmp_path)
        other.reload()
        assert other.status == "running"
    finally:
        process.kill()
        other.remove(force=True)
        for each in left_behind(engine, tmp_path):
            each.remove(force=True)


@docker_test
def test_containers_that_have_not_begun_when_one_fails_are_not_run(engine: Any, tmp_path: Path) -> None:
    process = looped(tmp_path, failing=0)
    assert process.wait(timeout=120) == 1
    said = (tmp_path / "said").read_text()
    assert "Inner task failed" in said
    assert said.count("begun: ") == 2
    assert not left_behind(engine, tmp_path)
