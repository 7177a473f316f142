"""Checks, counts and scores some parts of a dataset."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def shard(
    run_id: str,
    data: str,
    division: Input[Artifact],
    production_model: Input[Model],
    split: str,
    number: int,
    counted: Output[Artifact],
):
    """Checks, counts and scores some parts of a dataset, one after the other.

    Args:
        run_id: the MLflow run.
        data: URI of the dataset.
        division: JSON: which parts are in which shard.
        production_model: the production bundle.
        split: how held-out pairs are chosen: "auto" or "hash".
        number: which shard.
        counted: a folder: what was found, for `merge`.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("shard", run_id, {"Counts of a shard": counted}, [division]):
        from matchmaking.evidence.shard import count_shard

        planned = json.loads(Path(division.path).read_text())
        count_shard(planned, number, Path(production_model.path), Path(counted.path), uri=data, how=split)
