"""The first step where a dataset is read in parts: opens the MLflow run, brings production, and divides the parts."""

# mypy: disable-error-code="valid-type"
from typing import List, NamedTuple  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def plan(
    data: str,
    production: str,
    pipeline: str,
    job_id: str,
    timestamp: str,
    params: dict,
    split: str,
    production_data: str,
    division: Output[Artifact],
    production_model: Output[Model],
) -> NamedTuple("Outputs", [("run_id", str), ("Output", List[int]), ("production_sha256", dict)]):  # noqa: UP006
    """Opens the MLflow run, brings production here, and divides a dataset's parts into shards, reading none.

    Args:
        data: URI of the dataset.
        production: URI of the production folder.
        pipeline: the name of the pipeline whose run is opened.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.
        split: how held-out pairs are chosen: "auto" or "hash".
        production_data: URI of the dataset that a production model which doesn't know was trained on.
        division: JSON: which parts are in which shard.
        production_model: a copy of the three production files, with `production_data` where it counts.

    Returns:
        run_id: the MLflow run.
        Output: the numbers of the shards; `kfp.local` looks for what a loop is over under this name.
        production_sha256: by file name.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("plan", "", {"Division": division, "Production model": production_model}) as this:
        from matchmaking.inputs.ingest import fetch_production, fetch_training_data
        from matchmaking.inputs.plan import check_by_rows, plan_shards

        run_id, _ = this.open_run(pipeline, timestamp, job_id, params)
        folder = Path(production_model.path)
        sha256 = fetch_production(production, folder)
        if production_data:
            fetch_training_data(production_data, folder)
        check_by_rows(split, folder, production)
        planned = plan_shards(data)
        Path(division.path).write_text(json.dumps(planned))
        return run_id, [*range(len(planned["shards"]))], sha256
