"""Running a pipeline on this machine through `kfp.local`, quietly: a line a step for people, everything in a log."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from matchmaking.base.errors import InputError, MlopsError, cannot_write
from matchmaking.base.records import read_record
from matchmaking.base.settings import tracking_uri
from matchmaking.experiments.stop import Stop, StopError, stop_outside
from matchmaking.reporting.report import SUMMARY, write_failed, write_summary
from matchmaking.reporting.summary import Failure, Summary
from matchmaking.reporting.traffic import tell_stops
from matchmaking.tracking import now
from mlops.local.steps import end_children, in_kfps_place
from mlops.local.warm import Nursery
from mlops.local.watch import COLOURS, Steps, Watcher
from pipelines import function

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

    how: local.SubprocessRunner | local.DockerRunner = local.SubprocessRunner(use_venv=False)
    if runner == "docker":
        from mlops.local.containers import docker_runner

        arguments, how = docker_runner(arguments)
    outside = runner == "docker" and name == "experiment"
    # what an earlier run couldn't stop doesn't wait for the steps
    stops = _stop_from_here({})[0] if outside else []
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
        try:
            with redirect_stdout(watcher), in_kfps_place(watcher, scratch, nursery), warnings.catch_warnings():
                # kfp warns of image names without "python", and that display names do nothing here
                warnings.simplefilter("ignore")
                function(name)(**arguments, timestamp=timestamp)
        except KeyboardInterrupt:
            end_children()
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
            failed = _failed(name, timestamp, folder, arguments, failure)
            # what was found is stopped, whatever went wrong after it
            return _stopped(failed, stops, arguments) if outside else failed
        except OSError as error:
            # what is printed goes to the log, and there may be no room for it
            end_children()
            _fail(folder, str(error), tell=True)
            raise cannot_write(error.filename or folder, error) from error
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    steps = Steps.of(folder)
    _take_reports(steps, folder)
    summary = read_record(Summary, (folder / SUMMARY).read_bytes(), str(folder / SUMMARY))
    if outside:
        return _stopped(Outcome(summary.as_dict(), folder, 0), stops, arguments)
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


def _images(name: str) -> set[str]:
    """The images that the steps of a pipeline run in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        executors = function(name).pipeline_spec.deployment_spec["executors"]
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
    # with what became of a challenger's traffic, where it came to that
    said = folder / "experiment.json"
    outputs["experiment"] = said if said.exists() else steps.outputs.get("experiment/result", folder) / said.name
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


def _stop_from_here(said: dict[str, Any], before: Sequence[Stop] = ()) -> tuple[list[Stop], str]:
    """Ends the traffic of challengers that do harm, which steps in containers can't.

    Args:
        said: what the run says of its experiment.
        before: what this run has tried.

    Returns:
        All that it has tried by now; and why one has its traffic, as far as is known, or that nothing is known.
    """
    try:
        with redirect_stdout(sys.stderr):
            stops = [*before, *stop_outside(said, but=[each.run_id for each in before])]
    except MlopsError as error:
        return [*before], f"whether a challenger that does harm was stopped isn't known: {error}"
    return stops, "; ".join(f"{each.experiment}: {each.said}" for each in stops if each.state == "failed")


def _stopped(ended: Outcome, before: Sequence[Stop], arguments: dict[str, Any]) -> Outcome:
    """What comes after steps in containers: harm is stopped, that is told in all places, and the MLflow run is closed.

    Args:
        ended: how the steps ended.
        before: what was tried before they began.
        arguments: the pipeline's.
    """
    from matchmaking import tracking

    folder, error = ended.folder, ended.summary["error"]
    name, _, timestamp = folder.name.rpartition("_")
    try:
        stops, why = _stop_from_here(ended.summary["experiment"] or {}, before)
        try:
            known = read_record(Summary, json.dumps(ended.summary).encode(), str(folder / SUMMARY))
            summary = tell_stops(folder, known, stops)
            if not why and not error:
                tracking.succeed_run(str(summary.run_id))
        except MlopsError as unrecorded:
            why = "; ".join(filter(None, [why, str(unrecorded)]))
    except KeyboardInterrupt:
        _fail(folder, "interrupted")
        interrupted = {"step": "report", "exit_code": 130, "message": "interrupted"}
        return _failed(name, timestamp, folder, arguments, interrupted)
    if why:
        # those who hear notices have been told, unless it isn't known
        _fail(folder, f"report: {why}", tell=not error and not any(each.told for each in stops))
        failure = error or {"step": "report", "exit_code": StopError.exit_code, "message": ""}
        message = "; ".join(filter(None, [failure["message"], why]))
        return _failed(name, timestamp, folder, arguments, {**failure, "message": message})
    if error:
        return _failed(name, timestamp, folder, arguments, error)
    write_summary(folder, summary)
    return Outcome(summary.as_dict(), folder, 0)


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
    except FileExistsError:
        # taken already, by a run that failed after that
        return target
    except OSError:
        shutil.copyfile(source, target)
    return target
