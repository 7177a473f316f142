"""The first step of every pipeline: opens the MLflow run."""

from typing import NamedTuple

from kfp import dsl

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def start(
    pipeline: str, job_id: str, timestamp: str, params: dict
) -> NamedTuple("Outputs", [("run_id", str), ("timestamp", str)]):  # type: ignore[valid-type]
    """Opens the MLflow run.

    Args:
        pipeline: the pipeline's name.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.

    Returns:
        run_id: the MLflow run.
        timestamp: the run's.
    """
    from datetime import datetime, timezone

    from matchmaking.steps import step

    with step("start", ""):
        from matchmaking.tracking import start_run

        stamp = timestamp or datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        return (start_run(pipeline, stamp, job_id, params), stamp)
