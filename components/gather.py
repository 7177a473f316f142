"""The first step of `experiment`: opens the MLflow run, and brings the definition and the logs here."""

# mypy: disable-error-code="valid-type"
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def gather(
    experiment_name: str,
    exposures: str,
    outcomes: str,
    pairs: str,
    until: str,
    job_id: str,
    timestamp: str,
    logs: Output[Dataset],
) -> NamedTuple("Outputs", [("run_id", str)]):
    """Brings an experiment's definition and logs here, into an MLflow run that it opens.

    Args:
        experiment_name: which experiment; empty for the one that is under way.
        exposures: URI of the gateway's log.
        outcomes: URI of the outcomes; empty for none.
        pairs: URI of what is known of the requests; empty for nothing.
        until: as of when; empty for the run's own time.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        logs: a folder: the logs, the definition, and what was asked.

    Returns:
        run_id: the MLflow run.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("gather", "", {"Logs": logs}) as this:
        from matchmaking.experiments.gather import Sources, gather
        from matchmaking.tracking import log_params

        run_id, stamp = this.open_run("experiment", timestamp, job_id, {})
        sources = Sources(exposures, outcomes, pairs)
        asked, version = gather(experiment_name, sources, until, stamp, Path(logs.path))
        this.tell_dataset(version)
        log_params(run_id, {"experiment": asked.name, "until": asked.now})
        return (run_id,)
