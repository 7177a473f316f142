"""The MLflow record of a run: opened before the first step, closed by the last one or by the one that fails."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matchmaking.base import settings
from matchmaking.base.errors import MlopsError, RefusedError
from matchmaking.base.escape import for_markdown
from matchmaking.base.settings import EXPERIMENT
from matchmaking.tracking.connection import client, database_lock, told

# the tag that finds a run again when the step that opened it is retried
JOB_TAG = "pipeline_job_id"
# the address of the run's page in Kubeflow Pipelines; a local run has none
KFP_TAG = "kfp_run"
# and that of MLflow's UI, as the pod that opened the run was told it
MLFLOW_TAG = "mlflow_url"
PIPELINE_TAG = "pipeline"
# md5
DATASET_TAG = "dataset_version"
REASON_TAG = "failure_reason"
# which dataset a production model that doesn't say so was taken to be trained on: its sha256, a colon, the md5
ASSUMED_TAG = "assumed_training_data"
NOTE_TAG = "mlflow.note.content"
FAILED, KILLED = "Failed: ", "Stopped: "
# MLflow refuses longer tag values; the whole reason is in the artifact
TAG_LIMIT = 4_000
RECORD = "can't record the run"


def now() -> str:
    """The time in UTC as runs and packages are named by it: 20260131T235959Z."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def start_run(pipeline: str, timestamp: str, job_id: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """Opens the run `<pipeline>_<timestamp>`; for a job that has opened one already, finds that run.

    Returns:
        The run's id and its time stamp.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    with told(RECORD):
        with database_lock():
            experiment = _experiment()
        known = _of_job(experiment, job_id)
        if not known:
            tags = {JOB_TAG: job_id, PIPELINE_TAG: pipeline, **_revision(), **_pages(job_id)}
            client().create_run(experiment, run_name=f"{pipeline}_{timestamp}", tags=tags)
            # a creation whose answer was lost is sent again, and then there are two
            known = _of_job(experiment, job_id)
        for twin in known[1:]:
            client().delete_run(twin.info.run_id)
        run = known[0]
        # of a retried step's two time stamps the run has the first
        timestamp = str(run.info.run_name).removeprefix(f"{pipeline}_")
        log_params(run.info.run_id, {**params, "timestamp": timestamp})
    return str(run.info.run_id), timestamp


@dataclass(frozen=True)
class Begun:
    """What the first step has recorded of its run.

    Attributes:
        pipeline: its name.
        timestamp: UTC, as in 20260131T235959Z.
        seed: the run's; None where nothing is drawn by chance.
        dataset_version: md5 of the dataset.
    """

    pipeline: str
    timestamp: str
    seed: int | None
    dataset_version: str


def begun(run_id: str) -> Begun:
    """What a run was begun with.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    with told(RECORD):
        data = client().get_run(run_id).data
    tags, params = data.tags, data.params
    # KFP's numbers are doubles, and one of them may be written as such
    seed = int(float(params["seed"])) if "seed" in params else None
    return Begun(tags[PIPELINE_TAG], params["timestamp"], seed, tags[DATASET_TAG])


def _revision() -> dict[str, str]:
    """Which revision of the versioned data was asked for; its md5 is in the parameters in any case."""
    revision = os.environ.get("MLOPS_DATA_REVISION")
    return {"data_revision": revision} if revision else {}


def _pages(job_id: str) -> dict[str, str]:
    """Where people find the run, for the steps after this one; nothing outside of Kubeflow Pipelines' pods.

    Kubeflow Pipelines calls it by its job's id.
    """
    if not os.environ.get("KFP_POD_NAME"):
        return {}
    page = settings.kfp_run_url(job_id)
    return {KFP_TAG: page, MLFLOW_TAG: settings.mlflow_url(), NOTE_TAG: _page_note(page)}


def _page_note(page: str | None) -> str:
    return f"[The run in Kubeflow Pipelines]({page})" if page else ""


def log_params(run_id: str, params: Mapping[str, Any]) -> None:
    """Sets parameters; None values are left out.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    from mlflow.entities import Param

    found = [Param(name, str(value)) for name, value in params.items() if value is not None]
    with told(RECORD):
        client().log_batch(run_id, params=found)


def finish_run(
    run_id: str,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    history: Mapping[str, list[float]] | None,
    tags: Mapping[str, str],
    artifacts: Path,
    close: bool = True,
) -> None:
    """Records the results of a run that went well, and closes it.

    Args:
        run_id: the run.
        params: what was decided on the way (dataset version, epochs that were run).
        metrics: scalars, by name.
        history: training curves: values by epoch, by name.
        tags: words about the run (verdict, candidate).
        artifacts: a folder; everything in it is stored with the run.
        close: False where another step follows, which closes the run.

    Raises:
        TrackingError: the server or its artifact store cannot be reached, after the retries.
    """
    from mlflow.entities import Metric, RunTag

    # one time stamp for all, that of the run: logged again by a retry, a metric is the same row and not a second one
    with told(RECORD):
        stamp = client().get_run(run_id).info.start_time
        rows = [Metric(name, value, stamp, 0) for name, value in metrics.items()]
        for name, values in (history or {}).items():
            rows += [Metric(f"training_{name}", value, stamp, epoch) for epoch, value in enumerate(values, start=1)]
        log_params(run_id, params)
        for start in range(0, len(rows), 1000):
            client().log_batch(run_id, metrics=rows[start : start + 1000])
        # what a tag is looked for by is there once it is
        client().log_artifacts(run_id, str(artifacts))
        client().log_batch(run_id, tags=[RunTag(name, value[:TAG_LIMIT]) for name, value in tags.items()])
    if close:
        succeed_run(run_id)


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    from mlflow.entities import RunTag

    with told(RECORD):
        client().log_batch(run_id, tags=[RunTag(name, value[:TAG_LIMIT]) for name, value in tags.items()])


def assume_training_data(run_id: str, model_sha256: str, version: str, *, told_so: bool) -> None:
    """Records which dataset a production model is taken to be trained on, and refuses to take it for another one.

    Nothing in a model from elsewhere says which pairs trained it. That it was the dataset of today can be true of one
    dataset, and was most likely so of the first.

    Args:
        run_id: the run that assumes it.
        model_sha256: of the production model.
        version: md5 of the dataset.
        told_so: whether a person says so; that counts more than what was assumed before.

    Raises:
        RefusedError: runs before this one took another dataset.
        TrackingError: the server cannot be reached, after the retries.
    """
    from mlflow.entities import ViewType

    with told(RECORD):
        condition = f"tags.{ASSUMED_TAG} LIKE '{model_sha256}:%'"
        newest = ["attributes.start_time DESC"]
        found = client().search_runs([_experiment()], condition, ViewType.ALL, max_results=1, order_by=newest)
    earlier = found[0].data.tags[ASSUMED_TAG].partition(":")[2] if found else version
    if earlier != version and not told_so:
        raise RefusedError(
            f"production's model doesn't say which pairs trained it. The run {found[0].info.run_name} took them to be "
            f"of the dataset's version {earlier[:12]}; this is {version[:12]}, and pairs that trained production would "
            "be held out to judge it. Name the dataset that production was trained on with --production-data (the "
            "parameter production_data)"
        )
    tag_run(run_id, {ASSUMED_TAG: f"{model_sha256}:{version}"})


def succeed_run(run_id: str) -> None:
    """Marks a run FINISHED; what it said of an earlier failure, of an attempt before, is taken away.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    with told(RECORD):
        tags = client().get_run(run_id).data.tags
        if REASON_TAG in tags:
            client().delete_tag(run_id, REASON_TAG)
        if tags.get(NOTE_TAG, "").startswith((FAILED, KILLED)):
            client().set_tag(run_id, NOTE_TAG, _page_note(tags.get(KFP_TAG)))
        client().set_terminated(run_id, "FINISHED")


def fail_run(run_id: str, reason: str) -> None:
    """Marks a run FAILED with the reason, unless it has ended already."""
    _end_run(run_id, "FAILED", reason)


def _end_run(run_id: str, status: str, reason: str) -> bool:
    """Ends a run that hasn't, as FAILED or KILLED; whether it hadn't."""
    run = client().get_run(run_id)
    if run.info.status != "RUNNING":
        return False
    said = (FAILED if status == "FAILED" else KILLED) + reason[:TAG_LIMIT]
    page = _page_note(run.data.tags.get(KFP_TAG))
    client().set_tag(run_id, REASON_TAG, reason[:TAG_LIMIT])
    # MLflow shows notes as Markdown
    note = for_markdown(said)
    client().set_tag(run_id, NOTE_TAG, f"{note}\n\n{page}" if page else note)
    client().set_terminated(run_id, status)
    return True


def failure(run_id: str) -> str | None:
    """Why a run was marked FAILED; None for one that wasn't."""
    with told(RECORD):
        run = client().get_run(run_id)
    return str(run.data.tags.get(REASON_TAG, "no reason")) if run.info.status == "FAILED" else None


def _of_job(experiment: str, job_id: str) -> list[Any]:
    """The runs that a pipeline execution opened, the first one first."""
    condition = f"tags.{JOB_TAG} = '{job_id}'"
    return list(client().search_runs([experiment], condition, order_by=["attributes.start_time", "attributes.run_id"]))


def _experiment() -> str:
    """The id of our experiment, created where it isn't there."""
    from mlflow.exceptions import MlflowException

    for attempt in (1, 2):
        found = client().get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client().create_experiment(EXPERIMENT, artifact_location=artifact_location()))
        except MlflowException:
            # somebody else has created it in between
            if attempt == 2:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def artifact_location() -> str | None:
    """Where an experiment's artifacts go; None for where the server puts them."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    # MLflow would put them below the current folder
    local = uri.startswith("sqlite:///")
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts").as_uri() if local else None


@dataclass(frozen=True)
class OpenRun:
    """A run that is recorded as running.

    Attributes:
        run_id: MLflow's.
        name: as in retrain_20260131T235959Z.
        job_id: of the pipeline execution that opened it; in a cluster, the id of Kubeflow Pipelines' run.
        kfp_page: the address of that run's page; empty for a local run.
        started: UTC.
    """

    run_id: str
    name: str
    job_id: str
    kfp_page: str
    started: datetime


def open_runs(job_id: str = "") -> list[OpenRun]:
    """The runs of the pipelines that are recorded as running, the first one first.

    Args:
        job_id: only what this pipeline execution opened.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    condition = "attributes.status = 'RUNNING'" + (f" and tags.{JOB_TAG} = '{job_id}'" if job_id else "")
    found: list[OpenRun] = []
    token = None
    with told(RECORD):
        experiment = client().get_experiment_by_name(EXPERIMENT)
        while experiment:
            page = client().search_runs(
                [experiment.experiment_id], condition, order_by=["attributes.start_time"], page_token=token
            )
            found += [_open_run(run) for run in page if JOB_TAG in run.data.tags]
            if not (token := page.token):
                break
    return found


def _open_run(run: Any) -> OpenRun:
    tags, info = run.data.tags, run.info
    started = datetime.fromtimestamp(info.start_time / 1000, UTC)
    return OpenRun(info.run_id, str(info.run_name), tags[JOB_TAG], tags.get(KFP_TAG, ""), started)


def close_run(run_id: str, reason: str, *, killed: bool = False) -> bool:
    """Ends a run that is recorded as running, though it has ended: FAILED, or KILLED where it was terminated.

    Returns:
        Whether it was recorded as running still.

    Raises:
        TrackingError: the server cannot be reached, after the retries.
    """
    with told(RECORD):
        return _end_run(run_id, "KILLED" if killed else "FAILED", reason)


def links(run_id: str) -> list[str]:
    """Where people find a run, a line each: in MLflow and, if it is one of theirs, in Kubeflow Pipelines."""
    try:
        with told(RECORD):
            tags = client().get_run(run_id).data.tags
    except MlopsError:
        tags = {}
    lines = [f"MLflow run {settings.mlflow_run_url(run_id, tags.get(MLFLOW_TAG, ''))}"]
    page = tags.get(KFP_TAG)
    return [*lines, f"Kubeflow Pipelines run {page}"] if page else lines


def fail_job(job_id: str, reason: str) -> bool:
    """Marks the run that a pipeline execution opened FAILED; whether there was one that hadn't ended."""
    return _fail_found(f"tags.{JOB_TAG} = '{job_id}'", reason)


def fail_named(run_name: str, reason: str) -> bool:
    """Marks the run of a name FAILED, where there is one and it hasn't ended; whether there was."""
    return _fail_found(f"attributes.run_name = '{run_name}'", reason)


def _fail_found(condition: str, reason: str) -> bool:
    with told(RECORD):
        found = client().search_runs([_experiment()], condition, max_results=1)
        running = [run.info.run_id for run in found if run.info.status == "RUNNING"]
        for run_id in running:
            fail_run(run_id, reason)
        return bool(running)
