"""observe (daily): how production does on the pairs that people were shown, as their outcomes come."""

from kfp import dsl

from components.collect import collect
from components.observe import observe as observe_windows
from components.report import report
from pipelines.memory import DEFAULT
from pipelines.pods import equip


@dsl.pipeline(name="observe", description="Measure production on the pairs of now, and estimate what is still to come.")
def observe(  # type: ignore[no-untyped-def]
    production: str,
    predictions: str = "",
    outcomes: str = "",
    data: str = "",
    period: str = "week",
    seed: int = 0,
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Measures production on the pairs of now, window by window, and estimates where outcomes haven't come.

    Args:
        production: URI of the production folder, whose model is asked about pairs that an earlier one scored, and whose
            audit trail tells which models were promoted; empty for none.
        predictions: URI of the prediction log, a file or a folder of parts (Parquet or JSON Lines).
        outcomes: URI of the outcome log; empty where there is none yet.
        data: in place of both logs, URI of a labelled dataset, which may have a column `time`.
        period: of the windows: "day", "week" or "month".
        seed: of everything that is drawn by chance.
        timestamp: UTC, the time of looking, which is none to come; empty for now.
        memory: request and limit of the step that holds the pairs, as in "6Gi"; see docs/cluster.md.
    """
    fetched = collect(
        predictions=predictions,
        outcomes=outcomes,
        data=data,
        production=production,
        period=period,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params={"seed": seed},
    )
    run_id = fetched.outputs["run_id"]
    found = observe_windows(
        run_id=run_id,
        logs=fetched.outputs["logs"],
        production_model=fetched.outputs["production_model"],
        seed=seed,
    )
    report(
        run_id=run_id,
        production=production,
        production_sha256=fetched.outputs["production_sha256"],
        live=found.outputs["live"],
    )
    equip(memory)
