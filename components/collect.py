"""The first step of `observe`: opens the MLflow run, and brings the logs and the production model here."""

# mypy: disable-error-code="valid-type"
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def collect(
    predictions: str,
    outcomes: str,
    data: str,
    production: str,
    period: str,
    job_id: str,
    timestamp: str,
    params: dict,
    logs: Output[Dataset],
    production_model: Output[Model],
) -> NamedTuple("Outputs", [("run_id", str), ("production_sha256", dict)]):
    """Brings the logs and the production model here, into an MLflow run that it opens.

    Args:
        predictions: URI of the prediction log; empty where `data` is given.
        outcomes: URI of the outcome log; empty for none.
        data: URI of a labelled dataset, in place of both.
        production: URI of the production folder, whose audit trail tells which models were promoted; empty for none.
        period: of the windows.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.
        logs: a folder: the logs, and what was asked.
        production_model: a copy of the three production files; empty for none.

    Returns:
        run_id: the MLflow run.
        production_sha256: by file name.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("collect", "", {"Logs": logs, "Production model": production_model}) as this:
        from matchmaking.inputs.ingest import fetch_production
        from matchmaking.live.collect import fetch_logs, write_asked
        from matchmaking.live.series import looked_at
        from matchmaking.release.audit import promoted_models
        from matchmaking.tracking import log_params

        run_id, stamp = this.open_run("observe", timestamp, job_id, params)
        # before anything can fail: which series the run goes on with
        log_params(run_id, looked_at(period, predictions, outcomes, data, production))
        folder = Path(logs.path)
        this.tell_dataset(fetch_logs(predictions, outcomes, data, folder))
        sha256 = fetch_production(production, Path(production_model.path))
        promoted = promoted_models(production) if sha256 else None
        write_asked(folder, period, stamp, (predictions, outcomes, data, production), promoted)
        return (run_id, sha256)
