"""Checks, counts and draws from some parts of one of two datasets."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def draw(
    run_id: str,
    data: str,
    current: str,
    division: Input[Artifact],
    production_model: Input[Model],
    seed: int,
    number: int,
    counted: Output[Artifact],
):
    """Checks, counts and draws from some parts of one of two datasets, one after the other.

    Args:
        run_id: the MLflow run.
        data: URI of the reference dataset.
        current: URI of the current dataset.
        division: JSON: which parts of which dataset are in which shard.
        production_model: the production bundle, which knows its categories; may be empty.
        seed: of the drawing.
        number: which shard.
        counted: a folder: what was found, for `pool`.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("draw", run_id, {"Counts of a shard": counted}, [division]):
        from matchmaking.inputs.draw import draw_shard

        planned = json.loads(Path(division.path).read_text())
        uris = {"reference": data, "current": current}
        draw_shard(planned, number, Path(production_model.path), Path(counted.path), uris=uris, seed=seed)
