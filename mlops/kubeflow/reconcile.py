"""Bringing MLflow's records and Kubeflow Pipelines' runs together again.

A step that fails says so in MLflow itself. One that is killed can't (out of memory, its node lost, the run terminated,
its Workflow deleted), and its run would be recorded as running for ever. So what is recorded as running is asked of
Kubeflow Pipelines, by the id that both know it by, and what has ended there is closed here: KILLED where it was
terminated, FAILED otherwise, with the reason. Runs of other machines that are recorded on the same MLflow server, and
of another Kubeflow Pipelines, are let be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from matchmaking import tracking
from matchmaking.base.settings import kfp_url
from matchmaking.tracking import OpenRun, notify
from mlops.kubeflow import follow
from mlops.kubeflow.kfp_api import Server, ServerError

# what isn't there to be asked is first given the time to come, or to come back
GRACE = timedelta(hours=1)
# of Kubeflow Pipelines' runs; those of local runs are shorter
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def reconcile(
    server: Server,
    has_workflow: Callable[[str], bool] = lambda run_id: True,
    say: Callable[[str], None] = lambda line: None,
    moment: datetime | None = None,
) -> int:
    """Closes what is recorded as running and isn't.

    Args:
        server: whose runs they may be.
        has_workflow: whether the cluster has the Workflow of a run that Kubeflow Pipelines takes for running.
        say: told what is closed, a line each.
        moment: now, UTC.

    Returns:
        How many were closed.

    Raises:
        ServerError: Kubeflow Pipelines can't be reached.
        TrackingError: MLflow can't be reached.
    """
    closed = 0
    for run in tracking.open_runs():
        if not _ID.fullmatch(run.job_id):
            continue
        young = (moment or datetime.now(UTC)) - run.started < GRACE
        if found := _end(server, run, has_workflow, young):
            closed += close(run, *found)
            say(f"{run.name}: {found[0]}")
    return closed


def close(run: OpenRun, reason: str, killed: bool) -> bool:
    """Closes the record of a run that has ended, and tells people, once; whether it was open still.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if not tracking.close_run(run.run_id, reason, killed=killed):
        return False
    if notify.configured():
        title = f"{run.name} was stopped" if killed else "A pipeline run failed"
        notify.send("failed", title, "\n".join([reason, *tracking.links(run.run_id)]))
    return True


def reason(ended: follow.Ended) -> tuple[str, bool]:
    """Why a run has ended without its record, and whether it was stopped by somebody."""
    if ended.state == "CANCELED":
        return "it was terminated in Kubeflow Pipelines", True
    if ended.error:
        step = ended.error["step"]
        return f"{step}: {ended.error['message']}" if step else ended.error["message"], False
    return "it has ended in Kubeflow Pipelines without its results being recorded", False


def _end(server: Server, run: OpenRun, has_workflow: Callable[[str], bool], young: bool) -> tuple[str, bool] | None:
    """The reason to close a run, and whether it was stopped; None for one that goes on or isn't this server's."""
    try:
        ended = follow.ended(server, run.job_id)
    except ServerError as error:
        if error.status != 404:
            raise
        # a run of another Kubeflow Pipelines, or one that was deleted here
        ours = run.kfp_page.startswith(f"{kfp_url()}/")
        return ("its run was deleted in Kubeflow Pipelines", False) if ours and not young else None
    if ended:
        return reason(ended)
    return ("its Workflow was deleted in the cluster", False) if not young and not has_workflow(run.job_id) else None
