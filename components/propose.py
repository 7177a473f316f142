"""Proposes recipes to try."""

from typing import List  # noqa: UP035 - KFP knows the types of lists by these

from kfp import dsl
from kfp.dsl import Artifact, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def propose(
    run_id: str,
    trials: int,
    seed: int,
    epochs: int,
    proposed: Output[Artifact],
) -> List[int]:  # noqa: UP006
    """Proposes recipes to try, the default one first.

    Args:
        run_id: the MLflow run.
        trials: how many.
        seed: of what is drawn, and of the trainings.
        epochs: passes of the default recipe; 0: its own.
        proposed: JSON: the recipes.

    Returns:
        The numbers of the parts that they are tried in. (One unnamed output: kfp.local loops over no other.)
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    with step("propose", run_id, {"Recipes": proposed}):
        from matchmaking.model.sweep.propose import propose_file

        return propose_file(Path(proposed.path), trials, seed, epochs)
