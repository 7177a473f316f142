"""Scores recipes out of fold."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model

from matchmaking.base.settings import image


@dsl.component(base_image=image("trainer"), install_kfp_package=False)
def trial(
    run_id: str,
    train_pairs: Input[Dataset],
    production_model: Input[Model],
    trials: int,
    seed: int,
    epochs: int,
    part: int,
) -> str:
    """Scores recipes out of fold, on the training pairs.

    Args:
        run_id: the MLflow run.
        train_pairs: parquet.
        production_model: the bundle whose encoder and scaler are used; empty to bootstrap.
        trials: how many recipes are proposed, the default one among them.
        seed: of what is drawn, and of the trainings.
        epochs: passes of the default recipe; 0: its own.
        part: which of them are scored here.

    Returns:
        Their scores and what the step has cost, as a text; so few need no artifact.
    """
    from pathlib import Path

    from matchmaking.tracking.step import own_cost, step

    with step("trial", run_id):
        from matchmaking.model.sweep.propose import propose
        from matchmaking.model.sweep.trial import as_text, trial_file

        proposed = propose(trials, seed, epochs)
        scores = trial_file(Path(train_pairs.path), Path(production_model.path), proposed, part)
        return as_text(scores, own_cost("trial"))
