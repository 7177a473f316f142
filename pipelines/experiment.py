"""experiment (daily): what the experiment in front of the production service says."""

from kfp import dsl

from components.experiment import experiment as read_experiment
from components.gather import gather
from components.report import report
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="experiment", description="Read a recorded experiment's logs: its verdict, and a report.")
def experiment(  # type: ignore[no-untyped-def]
    exposures: str,
    outcomes: str = "",
    pairs: str = "",
    experiment_name: str = "",
    until: str = "",
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Reads a recorded experiment as of its last full day, keeps the report with its record, and tells a verdict once.

    Args:
        exposures: URI of the gateway's log, a file or a folder of parts (JSON Lines).
        outcomes: URI of the outcomes (Parquet, CSV or JSON Lines, a file or a folder), with unit, time, match, and
            request where it is known; empty where there is none yet.
        pairs: URI of what is known of the requests, in the same formats; empty for nothing.
        experiment_name: which experiment; empty for the one that is under way, where there is one.
        until: as of when, ISO 8601 with an offset; empty for the run's own time. Of a day to come nothing is kept.
        timestamp: UTC; empty for now.
        memory: request and limit of the step that holds the log, as in "6Gi"; see docs/cluster.md.
    """
    fetched = gather(
        experiment_name=experiment_name,
        exposures=exposures,
        outcomes=outcomes,
        pairs=pairs,
        until=until,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
    )
    run_id = fetched.outputs["run_id"]
    found = read_experiment(run_id=run_id, logs=fetched.outputs["logs"])
    report(run_id=run_id, production="", production_sha256={}, experiment=found.outputs["result"])
    equip(memory)
