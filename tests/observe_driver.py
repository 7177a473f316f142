"""Runs steps of `observe` or `experiment` as pods would, each in a process of its own, and kills them where it is told.

`python -m tests.observe_driver` reads a JSON line a step: `step`, `folder`, `given`, `env` and `writes` (null: it isn't
killed); and answers each with one: its exit `code`, and what it `said`. Steps are forked, so that not every one has to
import what they all need.

A step is the component's own function; its artifacts are folders below `folder`, as between the attempts of a step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from components.run import function
from mlops.local.warm import IMPORTS

# seconds that a step may take
PATIENCE = 300

# what changes MLflow's records
WRITES = ("create_run", "log_batch", "log_artifacts", "log_metric", "set_tag", "set_terminated")


class Artifact:
    """As much of KFP's as a step uses."""

    def __init__(self, path: Path) -> None:
        self.path, self.uri = str(path), str(path)
        notes = path.with_name(f"{path.name}.metadata")
        self.metadata: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {}

    def keep(self) -> None:
        Path(f"{self.path}.metadata").write_text(json.dumps(self.metadata))


def kill_after(writes: int) -> None:
    """Ends this process once it has changed MLflow's records so many times; 0: before it writes files."""
    from mlflow import MlflowClient

    from matchmaking.live import record
    from matchmaking.reporting import experiment

    record.BATCH = 100
    left = [writes]

    def counted(name: str) -> None:
        plain = getattr(MlflowClient, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            found = plain(self, *args, **kwargs)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(MlflowClient, name, call)

    for name in WRITES:
        counted(name)
    if writes == 0:
        for room, name in ((record, "write_record"), (experiment, "write_report")):
            setattr(room, name, lambda *args: os.kill(os.getpid(), signal.SIGKILL))


def main(step: str, folder: Path, given: dict[str, Any], writes: int | None) -> None:
    """Runs a step; what the steps before it gave is in `values.json`."""
    if writes is not None:
        kill_after(writes)
    kept = folder / "values.json"
    values = json.loads(kept.read_text()) if kept.exists() else {}
    names = ("logs", "production_model", "live", "result", "results", "report", "summary")
    artifacts = {name: Artifact(folder / name) for name in names}
    run = function(step)
    if step == "collect":
        made = [artifacts["logs"], artifacts["production_model"]]
        found = run(**given, logs=made[0], production_model=made[1])
        kept.write_text(json.dumps({"run_id": found[0], "production_sha256": found[1]}))
    elif step == "observe":
        made = [artifacts["live"]]
        inputs = {name: artifacts[name] for name in ("logs", "production_model", "live")}
        run(run_id=values["run_id"], seed=0, **inputs)
    elif step == "gather":
        made = [artifacts["logs"]]
        kept.write_text(json.dumps({"run_id": run(**given, logs=made[0])[0], "production_sha256": {}}))
    elif step == "experiment":
        made = [artifacts["result"]]
        run(run_id=values["run_id"], logs=artifacts["logs"], result=made[0])
    elif "exposures" in given:
        made = []
        outputs = {name: artifacts[name] for name in ("results", "report", "summary")}
        run(**values, production="", experiment=artifacts["result"], **outputs)
    else:
        made = []
        outputs = {name: artifacts[name] for name in ("live", "results", "report", "summary")}
        run(**values, production=given["production"], **outputs)
    for artifact in made:
        artifact.keep()


def in_child(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a step in a fork."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(PATIENCE)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os.environ.update(job["env"])
                main(job["step"], Path(job["folder"]), job["given"], job["writes"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "said": said.read()}


if __name__ == "__main__":
    for name in (*IMPORTS["root"], *IMPORTS["base"], *IMPORTS["report"], "boto3"):
        import_module(name)
    for line in sys.stdin:
        print(json.dumps(in_child(json.loads(line))), flush=True)
