"""The first step where two datasets are read in parts: opens the MLflow run, brings production, divides the parts."""

# mypy: disable-error-code="valid-type"
from typing import List, NamedTuple  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def divide(
    data: str,
    current: str,
    production: str,
    pipeline: str,
    job_id: str,
    timestamp: str,
    params: dict,
    division: Output[Artifact],
    production_model: Output[Model],
) -> NamedTuple("Outputs", [("run_id", str), ("Output", List[int]), ("production_sha256", dict)]):  # noqa: UP006
    """Opens the MLflow run, brings production here, and divides two datasets' parts into shards, reading none.

    Args:
        data: URI of the reference dataset.
        current: URI of the current dataset.
        production: URI of the production folder; empty for none.
        pipeline: the name of the pipeline whose run is opened.
        job_id: identifies this execution, so that a retried step finds the run it opened.
        timestamp: UTC, as in 20260131T235959Z; empty for now.
        params: what the run was asked to do.
        division: JSON: which parts of which dataset are in which shard.
        production_model: a copy of the three production files; empty for none.

    Returns:
        run_id: the MLflow run.
        Output: the numbers of the shards; `kfp.local` looks for what a loop is over under this name.
        production_sha256: by file name.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("divide", "", {"Division": division, "Production model": production_model}) as this:
        from matchmaking.inputs.divide import divide_sides
        from matchmaking.inputs.ingest import fetch_production

        run_id, _ = this.open_run(pipeline, timestamp, job_id, params)
        sha256 = fetch_production(production, Path(production_model.path))
        planned = divide_sides(data, current)
        Path(division.path).write_text(json.dumps(planned))
        return run_id, [*range(sum(len(side["shards"]) for side in planned.values()))], sha256
