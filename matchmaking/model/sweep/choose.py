"""Which of the recipes that were tried a candidate is trained by.

The one with the lowest log loss out of fold, of those whose average precision there is not below the default recipe's;
the default one, if that is within one standard error of it (Breiman et al., Classification and Regression Trees, 1984).
The error is that of the difference on the same blocks of rows, so that what both find hard is no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from matchmaking import tracking
from matchmaking.model.recipe import Recipe
from matchmaking.model.sweep.trial import BLOCKS, changes, scores_of


def choose_file(proposed: Sequence[Recipe], results: Sequence[str], out_path: Path) -> dict[str, Any]:
    """Chooses, and writes it as JSON for `recipe.read_choice`.

    Args:
        proposed: all recipes, the default one first.
        results: the parts' scores, as `trial.as_text` has them.
        out_path: the file to write.

    Returns:
        What `choose` does.
    """
    scores = sorted((one for text in results for one in scores_of(text)), key=lambda one: one["number"])
    assert [one["number"] for one in scores] == list(range(len(proposed))), "not each recipe has its scores"
    chosen = choose(proposed, scores)
    out_path.write_text(json.dumps({"recipe": asdict(proposed[chosen["chosen"]]), "sweep": chosen}, indent=1))
    return chosen


def choose(proposed: Sequence[Recipe], scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The number of the recipe that is chosen, and why.

    Args:
        proposed: the recipes, the default one first.
        scores: of each, as `out_of_fold` gives them.

    Returns:
        `chosen`, its number; `why`, a sentence; `trials`, by number: `changes` (to the default recipe, in words),
        `log_loss`, `average_precision`, `roc_auc`, `epochs` (passes that a training out of fold took, at most),
        `diverged`, `cpu_seconds`, and `gain` and `standard_error` of the log loss against the default recipe's:
        positive is better.
    """
    losses = np.array([one["block_losses"] for one in scores])
    gains = losses[0] - losses
    means, errors = gains.mean(axis=1), gains.std(axis=1, ddof=1) / np.sqrt(BLOCKS)
    trials = [
        {
            "number": number,
            "changes": changes(recipe, proposed[0]),
            "log_loss": round(float(losses[number].mean()), 6),
            "gain": round(float(means[number]), 6),
            "standard_error": round(float(errors[number]), 6),
            "diverged": score["epochs"] == 0,
            **{name: score[name] for name in ("average_precision", "roc_auc", "epochs", "cpu_seconds")},
        }
        for number, (recipe, score) in enumerate(zip(proposed, scores, strict=True))
    ]
    least = scores[0]["average_precision"]
    eligible = [number for number, one in enumerate(scores) if one["epochs"] and one["average_precision"] >= least]
    best = max(eligible, key=lambda number: (means[number], -number))
    chosen = best if means[best] > errors[best] else 0
    if best == 0:
        why = "no other recipe has a lower log loss out of fold without a lower average precision"
    else:
        gain = f"trial {best} lowers the log loss out of fold by {means[best]:.5f} ± {errors[best]:.5f}"
        why = gain if chosen else f"{gain}, which is within one standard error: the default recipe stays"
    return {"chosen": chosen, "why": why, "trials": trials}


def log_trials(run_id: str, chosen: dict[str, Any]) -> None:
    """Records the trials with a run: a metric's step is the trial's number; logged again they are the same rows.

    Raises:
        TrackingError: MLflow cannot be reached, after the retries.
    """
    from mlflow.entities import Metric

    with tracking.told("can't record the trials"):
        stamp = tracking.client().get_run(run_id).info.start_time
        names = ("log_loss", "average_precision", "roc_auc", "cpu_seconds")
        rows = [Metric(f"trial_{name}", one[name], stamp, one["number"]) for one in chosen["trials"] for name in names]
        tracking.client().log_batch(run_id, metrics=rows)
        tracking.log_params(run_id, {"trials": len(chosen["trials"]), "trial_chosen": chosen["chosen"]})
