"""Trains a candidate."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def train(
    run_id: str,
    train_pairs: Input[Dataset],
    production_model: Input[Model],
    lineage: Input[Artifact],
    algorithm: str,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    candidate: Output[Model],
    choice: Input[Artifact] = None,
):
    """Trains a candidate: a drop-in for production's model file.

    Args:
        run_id: the MLflow run.
        train_pairs: parquet.
        production_model: the bundle whose encoder and scaler the candidate keeps; empty to bootstrap.
        lineage: HDF5: which pairs these are; becomes part of the candidate's model file.
        algorithm: "interactions" or "dense".
        seed: of weights, folds and shuffling.
        epochs: passes over the rows, at most; 0: the algorithm's own.
        batch_size: rows a step; 0: the algorithm's own.
        learning_rate: the optimiser's first; 0: the algorithm's own.
        candidate: the bundle, with a record of the training.
        choice: JSON: the recipe that a sweep has chosen, in place of those five.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("train", run_id, {"Candidate": candidate}, [train_pairs, production_model, choice]):
        from matchmaking.model.recipe import Recipe, read_choice
        from matchmaking.model.train import train_candidate

        recipe, sweep = Recipe(algorithm, seed, epochs, batch_size, learning_rate), None
        if choice:
            recipe, sweep = read_choice(Path(choice.path))
        record = train_candidate(
            Path(train_pairs.path),
            Path(production_model.path),
            Path(candidate.path),
            recipe,
            lineage_path=Path(lineage.path),
            sweep=sweep,
        )
        candidate.metadata["framework"] = "keras"
        candidate.metadata["operating_point"] = record["operating_point"]
