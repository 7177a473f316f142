"""Chooses the recipe that a candidate is trained by."""

from typing import List  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def choose(
    run_id: str,
    trials: int,
    seed: int,
    epochs: int,
    results: List[str],  # noqa: UP006
    choice: Output[Artifact],
):
    """Chooses the recipe that a candidate is trained by, and records all trials.

    Args:
        run_id: the MLflow run.
        trials: how many recipes were proposed.
        seed: of what was drawn.
        epochs: passes of the default recipe; 0: its own.
        results: the parts' scores.
        choice: JSON: the recipe, and how it was chosen.
    """
    from pathlib import Path

    from matchmaking.tracking.step import as_text, step

    # a trial has no artifact for what it has cost
    tried = Artifact()
    with step("choose", run_id, {"Choice": choice}, [tried]):
        from matchmaking.model.sweep.choose import choose_file, log_trials
        from matchmaking.model.sweep.propose import propose
        from matchmaking.model.sweep.trial import cost_of

        tried.metadata["steps"] = as_text([cost_of(results)])
        chosen = choose_file(propose(trials, seed, epochs), results, Path(choice.path))
        log_trials(run_id, chosen)
