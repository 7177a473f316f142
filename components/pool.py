"""Adds up what the shards of two datasets have found, and draws the pairs to compare."""

from typing import List  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def pool(
    run_id: str,
    data: str,
    current: str,
    production_model: Input[Model],
    seed: int,
    counted: Input[List[Artifact]],  # noqa: UP006
    pairs: Output[Dataset],
    current_pairs: Output[Dataset],
    data_report: Output[Artifact],
):
    """Says what the current dataset holds, and draws the pairs that drift is tested on from what the shards have kept.

    Args:
        run_id: the MLflow run.
        data: URI of the reference dataset, as messages call it.
        current: URI of the current dataset.
        production_model: the production bundle; may be empty.
        seed: of the drawing.
        counted: a folder of each shard.
        pairs: parquet of the reference pairs that are drawn.
        current_pairs: the same of the current ones.
        data_report: JSON, of the current dataset: rows, extra columns, categories never seen before.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import as_text, step, summed

    # the shards' costs as those of one step
    before = Artifact(metadata={"steps": as_text(summed(counted))})
    outputs = {"Pairs": pairs, "Current pairs": current_pairs, "Data report": data_report}
    with step("pool", run_id, outputs, [before]) as this:
        from matchmaking.inputs.pool import pool_shards

        version, report = pool_shards(
            [Path(each.path) for each in counted],
            Path(production_model.path),
            {"reference": Path(pairs.path), "current": Path(current_pairs.path)},
            uris={"reference": data, "current": current},
            seed=seed,
        )
        this.tell_dataset(version)
        Path(data_report.path).write_text(json.dumps(report, indent=1))
