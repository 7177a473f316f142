"""The first step of every pipeline: opens the MLflow run."""

# mypy: disable-error-code="valid-type"
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def start(pipeline: str, job_id: str, timestamp: str, params: dict, opened: Output[Artifact]) -> NamedTuple(
    "Outputs", [("run_id", str), ("timestamp", str)]
):
    """Opens the MLflow run.

    Args:
        pipeline: the pipeline's name.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.
        opened: text: the run's id; carries what opening it cost.

    Returns:
        run_id: the MLflow run.
        timestamp: the run's.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("start", "", [opened]):
        from matchmaking.tracking import now, start_run

        found = start_run(pipeline, timestamp or now(), job_id, params)
        Path(opened.path).write_text(found[0])
        return found
