"""The first step: opens the MLflow run, and brings the dataset and the production model here."""

# mypy: disable-error-code="valid-type"
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def ingest(
    data: str,
    production: str,
    raw: Output[Dataset],
    production_model: Output[Model],
    pipeline: str = "",
    job_id: str = "",
    timestamp: str = "",
    params: dict = {},  # noqa: B006
    run_id: str = "",
    instead: str = "",
    production_data: str = "",
) -> NamedTuple(
    "Outputs", [("run_id", str), ("timestamp", str), ("dataset_version", str), ("production_sha256", dict)]
):
    """Brings the dataset and the production model here, as a pipeline's first step into an MLflow run that it opens.

    Args:
        data: URI of a dataset: a CSV or Parquet file, or a folder or pattern of parts.
        production: URI of the production folder; empty for none.
        raw: the file, or a folder of the parts, as they are.
        production_model: a copy of the three production files, with `production_data` where it counts; empty for none.
        pipeline: the name of the pipeline whose run is opened; empty where `run_id` is open already.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.
        run_id: the MLflow run, where it is open already.
        instead: URI to read where `data` is empty.
        production_data: URI of the dataset that a production model which doesn't know was trained on; empty for the
            run's own.

    Returns:
        run_id: the MLflow run.
        timestamp: the run's.
        dataset_version: md5 of the file, or of its parts (see `data.parts`).
        production_sha256: by file name.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    outputs = {"Dataset as it came": raw, "Production model": production_model}
    with step("ingest" if not instead else "ingest current", run_id, outputs) as this:
        from matchmaking.data.parts import fetch_dataset
        from matchmaking.inputs.ingest import fetch_production, fetch_training_data

        opened = this.open_run(pipeline, timestamp, job_id, params) if pipeline else (run_id, timestamp)
        version = fetch_dataset(data or instead, Path(raw.path))
        if pipeline:
            this.tell_dataset(version)
        folder = Path(production_model.path)
        sha256 = fetch_production(production, folder)
        if production_data:
            fetch_training_data(production_data, folder)
        return (*opened, version, sha256)
