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
    scored_reference: Output[Dataset],
    scored_current: Output[Dataset],
):
    """Scores reference and current pairs with production.

    Args:
        run_id: the MLflow run.
        reference: parquet.
        current: parquet.
        production_model: the production bundle; may be empty, and then nothing is scored.
        scored_reference: parquet with column `score`.
        scored_current: parquet with column `score`.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    inputs = [reference, current, production_model]
    outputs = {"Reference, scored": scored_reference, "Current pairs, scored": scored_current}
    with step("score", run_id, outputs, inputs):
        from matchmaking.model.score import score_files

        score_files(*[Path(artifact.path) for artifact in (*inputs, scored_reference, scored_current)])
