"""Running a pipeline on this machine through `kfp.local`, quietly: a line a step for people, everything in a log."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from matchmaking.errors import InputError, MlopsError
from matchmaking.escape import for_terminal
from matchmaking.records import Failure, Summary, read_record
from matchmaking.redact import redact
from matchmaking.settings import tracking_uri
from matchmaking.steps import ERROR_MARK, UNMARKED, costs_of
from matchmaking.summary import SUMMARY, write_failed, write_summary
from matchmaking.tracking import now

PIPELINES = ("retrain", "evaluate", "monitor")
RUNNERS = ("subprocess", "docker")
LOG = "run.log"
# where the summary of a failed run finds what its steps had written, by `<step>/<output>`
OUTPUTS = {
    "data": "validate/data_report",
    "evaluation": "evaluate/evaluation",
    "decision": "compare/decision",
    "drift": "drift/result",
    "promotion": "promote/audit_entry",
}

_STARTED = re.compile(r"Executing task .*?'([\w-]+)'")
# what kfp adds to the name of a task that is there twice
_SECOND = re.compile(r"-\d+$")
_COLOURS = re.compile(r"\x1b\[\d+m")


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
) -> Outcome:
    """Runs one pipeline and leaves its results in `<work_dir>/runs/<pipeline>_<timestamp>/`.

    Args:
        name: one of `PIPELINES`.
        arguments: the pipeline's, but for the timestamp.
        work_dir: where runs, MLflow's SQLite file and its artifacts go.
        runner: one of `RUNNERS`.
        on_step: called with a step's name when it begins.
        echo: where everything the steps print is shown as well; it always goes to the run's log.

    Returns:
        The outcome. A failed run has a summary too, with status "failed" and the reason.

    Raises:
        MlopsError: nothing can run at all.
    """
    from kfp import local

    work_dir = work_dir.resolve()
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(work_dir)
    how: local.SubprocessRunner | local.DockerRunner = local.SubprocessRunner(use_venv=False)
    if runner == "docker":
        from pipelines.containers import docker_runner

        arguments, how = docker_runner(arguments)
    timestamp, folder = _new_folder(work_dir, name)
    workspace = folder / "workspace"
    workspace.mkdir()
    local.init(
        runner=how,
        pipeline_root=str(folder / "steps"),
        workspace_root=str(workspace),
    )
    with (folder / LOG).open("w", encoding="utf-8", buffering=1) as log:
        watcher = _Watcher(log, on_step, echo)
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
                "message": _COLOURS.sub("", str(error)),
            }
            reason = f"{failure['step']}: {failure['message']}"
            # a step that was killed has told nobody
            if (watcher.unmarked or not watcher.failure) and not _fail(folder, reason, tell=not watcher.failure):
                failure = {**failure, "message": f"{failure['message']}; MLflow could not be told that the run failed"}
            return _failed(name, timestamp, folder, arguments, failure)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    steps = _Steps.of(folder)
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
        from pipelines.containers import check_engine

        check_engine(sorted({image for name in names for image in _images(name)}))


class _Watcher(io.TextIOBase):
    """Takes what kfp and the steps print: to the log, and picks out which step runs and why one failed."""

    def __init__(self, log: TextIO, on_step: Callable[[str], None], echo: TextIO | None) -> None:
        self.log, self.on_step, self.echo = log, on_step, echo
        self.failure: dict[str, Any] | None = None
        self.step = self.line = ""
        self.unmarked = False

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            plain = _COLOURS.sub("", line)
            # whole lines only: a credential may come in pieces. kfp's colours aside, what a step prints is data's too
            shown = for_terminal(redact(plain))
            for output in (self.log, self.echo):
                if output:
                    output.write(f"{shown}\n")
            plain = plain.strip()
            if started := _STARTED.search(plain):
                self.step = started[1].replace("-2", " current")
                self.on_step(self.step)
            elif plain.startswith(ERROR_MARK) and self.failure is None:
                self.failure = json.loads(plain.removeprefix(ERROR_MARK))
            elif plain.startswith(UNMARKED):
                self.unmarked = True
        return len(text)

    def flush(self) -> None:
        self.log.flush()


def _pipeline(name: str) -> Any:
    from pipelines.evaluate import evaluate
    from pipelines.monitor import monitor
    from pipelines.retrain import retrain

    return {"retrain": retrain, "evaluate": evaluate, "monitor": monitor}[name]


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
            raise InputError(f"{folder} can't be made: {error.strerror}; choose another --work-dir") from error


def _failed(name: str, timestamp: str, folder: Path, arguments: dict[str, Any], failure: dict[str, Any]) -> Outcome:
    """Writes what the steps had found before one of them failed, and why."""
    from matchmaking.model import TRAINING_RECORD

    steps = _Steps.of(folder)
    _take_reports(steps, folder)
    outputs = {key: steps.outputs.get(place, folder / "none") for key, place in OUTPUTS.items()}
    outputs["training"] = steps.outputs.get("train/candidate", folder) / TRAINING_RECORD
    packaged = steps.outputs.get("package/packaged")
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
    after = _production(arguments["production"])
    summary = write_failed(folder, outputs, known=known, failure=error, production_after=after, steps=steps.costs)
    return Outcome(summary.as_dict(), folder, error.exit_code)


@dataclass(frozen=True)
class _Steps:
    """What the steps of a run have left in its folder.

    Attributes:
        outputs: files and folders by `<step>/<output>`; of a step that runs twice, those of the later.
        values: the other outputs by name; of a step that runs twice, those of the earlier.
        costs: each step's.
    """

    outputs: dict[str, Path]
    values: dict[str, Any]
    costs: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> _Steps:
        outputs: dict[str, Path] = {}
        values: dict[str, Any] = {}
        costs: dict[str, dict[str, Any]] = {}
        done = sorted((folder / "steps").glob("*/*/executor_output.json"), key=lambda path: path.stat().st_mtime_ns)
        for record in done:
            found = json.loads(record.read_text())
            values = {**found.get("parameterValues", {}), **values}
            for output in found.get("artifacts", {}).values():
                for artifact in output["artifacts"]:
                    for cost in costs_of(artifact.get("metadata", {})):
                        costs.setdefault(cost["step"], cost)
        # a step that fails has no record, but may have written something
        for task in sorted((folder / "steps").glob("*/*"), key=lambda path: path.stat().st_mtime_ns):
            outputs |= {f"{_SECOND.sub('', task.name)}/{path.name}": path for path in task.iterdir()}
        return cls(outputs, values, list(costs.values()))


def _take_reports(steps: _Steps, folder: Path) -> None:
    """Copies the report step's folder to the run's own, where it was written to its end."""
    reports = steps.outputs.get("report/results")
    if reports and (reports / SUMMARY).exists():
        shutil.copytree(reports, folder, dirs_exist_ok=True, copy_function=_link_or_copy)


def _production(uri: str) -> dict[str, str] | None:
    """What production holds after a run that failed, where a look is free."""
    if not uri or "://" in uri:
        return None
    from matchmaking.production import hashes

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
    from matchmaking import notify, tracking

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
