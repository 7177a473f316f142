"""Running a pipeline on this machine through `kfp.local`, quietly: a line a step for people, everything in a log."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from matchmaking.base.errors import InputError, MlopsError, cannot_write
from matchmaking.base.records import read_record
from matchmaking.base.settings import tracking_uri
from matchmaking.reporting.report import SUMMARY, write_failed, write_summary
from matchmaking.reporting.summary import Failure, Summary
from matchmaking.tracking import now
from mlops.local.warm import Nursery, code
from mlops.local.watch import COLOURS, Steps, Watcher

LOG = "run.log"
# bytes of the work folder's path: SQLite opens files of 512, and adds a suffix to `mlflow.db`
MOST_PATH = 480
# where the summary of a failed run finds what its steps had written, by `<step>/<output>`
OUTPUTS = {
    "data": "validate/data_report",
    "evaluation": "evaluate/evaluation",
    "decision": "compare/decision",
    "drift": "drift/result",
    "promotion": "promote/audit_entry",
}


@dataclass(frozen=True)
class Outcome:
    """How a local run ended.

    Attributes:
        summary: the content of summary.json.
        folder: the run's folder.
        exit_code: 0, or that of the error.
    """

    summary: dict[str, Any]
    folder: Path
    exit_code: int


def run_pipeline(
    name: str,
    arguments: dict[str, Any],
    work_dir: Path,
    *,
    runner: str = "subprocess",
    on_step: Callable[[str], None] = lambda step: None,
    echo: TextIO | None = None,
    nursery: Nursery | None = None,
) -> Outcome:
    """Runs one pipeline and leaves its results in `<work_dir>/runs/<pipeline>_<timestamp>/`.

    Args:
        name: of the pipeline; all but "promote".
        arguments: the pipeline's, but for the timestamp.
        work_dir: where runs, MLflow's SQLite file and its artifacts go.
        runner: one of `RUNNERS`.
        on_step: called with a step's name when it begins.
        echo: where everything the steps print is shown as well; it always goes to the run's log.
        nursery: the warm processes that steps are forked from; each is started anew without them.

    Returns:
        The outcome. A failed run has a summary too, with status "failed" and the reason.

    Raises:
        InputError: the work folder or TMPDIR can't be used.
        MlopsError: nothing can run at all.
    """
    work_dir = work_dir.resolve()
    _check_places(work_dir)
    if nursery:
        nursery.prepare(name)
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(work_dir)
    # while the nursery imports what the steps need
    from kfp import local
    from kfp.local import subprocess_task_handler

    how: local.SubprocessRunner | local.DockerRunner = local.SubprocessRunner(use_venv=False)
    if runner == "docker":
        from mlops.local.containers import docker_runner

        arguments, how = docker_runner(arguments)
    timestamp, folder = _new_folder(work_dir, name)
    workspace = folder / "workspace"
    workspace.mkdir()
    local.init(
        runner=how,
        pipeline_root=str(folder / "steps"),
        workspace_root=str(workspace),
    )
    with (
        tempfile.TemporaryDirectory(prefix="mlops-", ignore_cleanup_errors=True) as scratch,
        (folder / LOG).open("w", encoding="utf-8", buffering=1) as log,
    ):
        watcher = Watcher(log, on_step, echo)
        kfps_own = subprocess_task_handler.run_local_subprocess
        subprocess_task_handler.run_local_subprocess = partial(_run_step, watcher, scratch, nursery)
        try:
            with redirect_stdout(watcher), warnings.catch_warnings():
                # kfp warns of image names without "python", and that display names do nothing here
                warnings.simplefilter("ignore")
                _pipeline(name)(**arguments, timestamp=timestamp)
        except KeyboardInterrupt:
            _end_children()
            _fail(folder, "interrupted")
            stopped = {"step": watcher.step, "exit_code": 130, "message": "interrupted"}
            return _failed(name, timestamp, folder, arguments, stopped)
        except RuntimeError as error:
            failure = watcher.failure or {
                "step": watcher.step or "?",
                "exit_code": 1,
                "message": watcher.died or COLOURS.sub("", str(error)),
            }
            reason = f"{failure['step']}: {failure['message']}"
            # a step that was killed has told nobody
            if (watcher.unmarked or not watcher.failure) and not _fail(folder, reason, tell=not watcher.failure):
                failure = {**failure, "message": f"{failure['message']}; MLflow could not be told that the run failed"}
            return _failed(name, timestamp, folder, arguments, failure)
        except OSError as error:
            # what is printed goes to the log, and there may be no room for it
            _end_children()
            _fail(folder, str(error), tell=True)
            raise cannot_write(error.filename or folder, error) from error
        finally:
            subprocess_task_handler.run_local_subprocess = kfps_own
            shutil.rmtree(workspace, ignore_errors=True)
    steps = Steps.of(folder)
    _take_reports(steps, folder)
    summary = read_record(Summary, (folder / SUMMARY).read_bytes(), str(folder / SUMMARY))
    if entry := steps.outputs.get("promote/audit_entry"):
        # the report, which comes before, can't know
        promoted = json.loads(entry.read_text()) or None
        after = _production(arguments["production"]) if promoted else None
        sha256 = summary.production_sha256.model_copy(update={"after": after}) if after else summary.production_sha256
        summary = summary.model_copy(update={"promotion": promoted, "production_sha256": sha256})
        write_summary(folder, summary)
    return Outcome(summary.as_dict(), folder, 0)


def check_runner(runner: str, names: Iterable[str]) -> None:
    """Makes sure, before anything starts, that a runner can run these pipelines.

    Raises:
        MlopsError: there is no Docker engine, or an image is missing.
    """
    if runner == "docker":
        from mlops.local.containers import check_engine

        check_engine(sorted({image for name in names for image in _images(name)}))


def _check_places(work_dir: Path) -> None:
    """Refuses at once a work folder that no record could name, and a folder for temporary files that isn't there."""
    path = str(work_dir)
    if wrong := sorted({each for each in path if each in "%?#" or not each.isprintable()}):
        raise InputError(
            f"--work-dir {path}: the path holds {', '.join(map(repr, wrong))}, which the address of MLflow's records "
            "can't; choose another folder"
        )
    if len(os.fsencode(path)) > MOST_PATH:
        raise InputError(
            f"--work-dir {path[:60]}...: the path is {len(os.fsencode(path))} bytes long, SQLite opens files of up to "
            f"{MOST_PATH}; choose another folder"
        )
    given = os.environ.get("TMPDIR")
    if given and not (Path(given).is_dir() and os.access(given, os.W_OK | os.X_OK)):
        raise InputError(f"TMPDIR is {given}, no folder that can be written to; make it, or unset TMPDIR")


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
    env = {**os.environ, **(env_vars or {}), "TMPDIR": scratch}
    watcher.last = ""
    found = _forked(nursery, full_command, env, scratch) if nursery else None
    if found is None:
        found = _spawned(full_command, env)
    # a shell that waits for it says 128 and the signal
    number = -found if found < 0 else found - 128
    if number in set(signal.Signals):
        watcher.died = f"ended by {signal.Signals(number).name}" + (
            ", as the system does where memory runs out" if number == signal.SIGKILL else ""
        )
    elif found:
        watcher.died = f"ended with exit code {found}" + (f": {watcher.last}" if watcher.last else "")
    return found


def _forked(nursery: Nursery, full_command: list[str], env: dict[str, str], scratch: str) -> int | None:
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
        for line in printed:
            print(line, end="")
        print("\n")
    # a warm process that died with its step took the answer along
    found = code(step)
    return -signal.SIGKILL if found is None else found


def _spawned(full_command: list[str], env: dict[str, str]) -> int:
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
        for line in process.stdout:
            print(line, end="")
        print("\n")
        return process.wait()


def _pipeline(name: str) -> Any:
    from pipelines.evaluate import evaluate
    from pipelines.experiment import experiment
    from pipelines.monitor import monitor
    from pipelines.observe import observe
    from pipelines.retrain import retrain

    return {
        "retrain": retrain,
        "evaluate": evaluate,
        "monitor": monitor,
        "observe": observe,
        "experiment": experiment,
    }[name]


def _images(name: str) -> set[str]:
    """The images that the steps of a pipeline run in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        executors = _pipeline(name).pipeline_spec.deployment_spec["executors"]
    return {executor["container"]["image"] for executor in executors.values()}


def _new_folder(work_dir: Path, name: str) -> tuple[str, Path]:
    """A time stamp that no other run of this pipeline has here, and the folder that belongs to it."""
    while True:
        timestamp = now()
        folder = work_dir / "runs" / f"{name}_{timestamp}"
        try:
            folder.mkdir(parents=True)
            return timestamp, folder
        except FileExistsError:
            time.sleep(0.2)
        except OSError as error:
            raise cannot_write(f"--work-dir: {folder}", error) from error


def _failed(name: str, timestamp: str, folder: Path, arguments: dict[str, Any], failure: dict[str, Any]) -> Outcome:
    """Writes what the steps had found before one of them failed, and why."""
    from matchmaking.model.train import TRAINING_RECORD

    steps = Steps.of(folder)
    _take_reports(steps, folder)
    outputs = {key: steps.outputs.get(place, folder / "none") for key, place in OUTPUTS.items()}
    outputs["training"] = steps.outputs.get("train/candidate", folder) / TRAINING_RECORD
    outputs["experiment"] = steps.outputs.get("experiment/result", folder) / "experiment.json"
    packaged = steps.outputs.get("report/packaged")
    error = Failure(step=failure["step"], message=failure["message"], exit_code=int(failure["exit_code"]))
    known = {
        "pipeline": name,
        "run_name": f"{name}_{timestamp}",
        "run_id": steps.values.get("run_id"),
        "dataset_version": steps.values.get("dataset_version"),
        "seed": arguments.get("seed"),
        "candidate_uri": (packaged.read_text() if packaged else "") or None,
        "production_before": steps.values.get("production_sha256"),
    }
    after = _production(arguments.get("production", ""))
    summary = write_failed(folder, outputs, known=known, failure=error, production_after=after, steps=steps.costs)
    return Outcome(summary.as_dict(), folder, error.exit_code)


def _take_reports(steps: Steps, folder: Path) -> None:
    """Copies the report step's folder to the run's own, where it was written to its end."""
    reports = steps.outputs.get("report/results")
    if reports and (reports / SUMMARY).exists():
        shutil.copytree(reports, folder, dirs_exist_ok=True, copy_function=_link_or_copy)


def _production(uri: str) -> dict[str, str] | None:
    """What production holds after a run that failed, where a look is free."""
    if not uri or "://" in uri:
        return None
    from matchmaking.model.production import hashes

    return hashes(Path(uri))


def _end_children() -> None:
    """A step that was running when only this process was told to end."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        child.kill()


def _fail(folder: Path, reason: str, tell: bool = False) -> bool:
    """Marks the MLflow run of a pipeline whose steps can't, or could not; whether that could be done.

    With `tell` people are notified, where the run was open still.
    """
    from matchmaking import tracking
    from matchmaking.tracking import notify

    try:
        if tracking.fail_named(folder.name, reason) and tell:
            notify.send("failed", "A pipeline run failed", reason)
    except MlopsError:
        return False
    return True


def _link_or_copy(source: str, target: str) -> str:
    """The reports are there twice, once as KFP's artifact: the same bytes, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
