"""Chooses the recipe that a candidate is trained by."""

from typing import List  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def choose(
    run_id: str,
    proposed: Input[Artifact],
    results: List[str],  # noqa: UP006
    choice: Output[Artifact],
):
    """Chooses the recipe that a candidate is trained by, and records all trials.

    Args:
        run_id: the MLflow run.
        proposed: JSON: the recipes.
        results: the trials' scores.
        choice: JSON: the recipe, and how it was chosen.
    """
    from pathlib import Path

    from matchmaking.model.sweep.trial import cost_of
    from matchmaking.tracking.step import as_text, step

    # a trial has no artifact for what it has cost
    tried = Artifact(metadata={"steps": as_text([cost_of(results)])})
    with step("choose", run_id, {"Choice": choice}, [proposed, tried]):
        from matchmaking.model.sweep.choose import choose_file, log_trials

        chosen = choose_file(Path(proposed.path), results, Path(choice.path))
        log_trials(run_id, chosen)
