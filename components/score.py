"""Scores reference and current pairs with production, so that drift of its scores can be seen."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def score(
    run_id: str,
    reference: Input[Dataset],
    current: Input[Dataset],
    production_model: Input[Model],
    uri: str,
    seed: int,
    scored_reference: Output[Dataset],
    scored_current: Output[Dataset],
):
    """Scores the reference and current pairs that drift is tested on with production.

    Args:
        run_id: the MLflow run.
        reference: parquet.
        current: parquet.
        production_model: the production bundle; may be empty, and then nothing is scored.
        uri: where `current` came from; empty for nowhere: a sample of the reference is compared with the rest.
        seed: of the drawing.
        scored_reference: parquet of the pairs that are drawn, with column `score`.
        scored_current: the same.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    inputs = [reference, current, production_model]
    outputs = {"Reference, scored": scored_reference, "Current pairs, scored": scored_current}
    with step("score", run_id, outputs, inputs):
        from matchmaking.model.score import score_files

        paths = [Path(artifact.path) for artifact in (*inputs, scored_reference, scored_current)]
        score_files(*paths, self_comparison=not uri, seed=seed)
