"""Which recipes a sweep tries: the default one, and others spread evenly over the space around it.

They are a Latin hypercube of the run's seed: however few there are, each of its axes is covered from end to end. All
are known before the first is tried, to whoever knows the seed: they can be tried side by side, in any order, by steps
that know nothing of each other. A sampler that learns from trials (Optuna's) would have nothing to learn from, and a
pruner would need a database that all steps write to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from matchmaking.base.errors import InputError
from matchmaking.model import recipe as recipes
from matchmaking.model.recipe import Recipe
from matchmaking.model.sweep import MOST_TRIALS

# steps that share the trials: each is three pods in a cluster, and its part of what a Workflow may hold
PARTS = 4


def _between(low: float, high: float, digits: int = 2) -> Callable[[float], float]:
    """A number by its place from 0 to 1 on a logarithmic scale, to so many significant digits."""
    return lambda place: float(f"{low * math.exp(place * math.log(high / low)):.{digits}g}")


def _one_of(*values: Any) -> Callable[[float], Any]:
    return lambda place: values[min(int(place * len(values)), len(values) - 1)]


# each axis by a place from 0 to 1; the default recipe is within all of them. The batch size stays the recipe's own, as
# it goes by the rows
SPACE: dict[str, Callable[[float], Any]] = {
    "epochs": _between(1 / 2, 2),  # times those of the default recipe
    "learning_rate": _between(3e-3, 2e-2),
    "members": _one_of(3, 4, 6),
    "embedding": _one_of(4, 8, 12, 16),
    "hidden": _one_of((16, 8), (32, 16), (48, 24), (64, 32)),
    "dropout": _between(0.15, 0.5),
    "weight_decay": _between(2e-5, 1e-3),
}


def propose(trials: int, seed: int, epochs: int = 0) -> list[Recipe]:
    """So many recipes, the default one first.

    Args:
        trials: how many.
        seed: of what is drawn, and of the trainings.
        epochs: passes of the default recipe in place of its own, of which the others have half to twice as many; 0 for
            its own.

    Raises:
        InputError: fewer than two, or more than `MOST_TRIALS`.
    """
    from scipy.stats import qmc

    if not 2 <= trials <= MOST_TRIALS:
        raise InputError(f"--trials {trials}: give a number from 2 to {MOST_TRIALS}; the first is the default recipe")
    own_epochs, _, learning_rate = recipes.OWN["interactions"]
    default = Recipe(
        "interactions",
        seed,
        epochs or own_epochs,
        0,
        learning_rate,
        recipes.MEMBERS,
        recipes.EMBEDDING,
        recipes.HIDDEN,
        recipes.DROPOUT,
        recipes.WEIGHT_DECAY,
    )
    places = qmc.LatinHypercube(len(SPACE), rng=np.random.default_rng(seed)).random(trials - 1)
    others = [{name: axis(place) for (name, axis), place in zip(SPACE.items(), row, strict=True)} for row in places]
    for other in others:
        other["epochs"] = max(1, round(other["epochs"] * default.epochs))
    return [default, *(replace(default, **other) for other in others)]


def part_of(trials: int, part: int) -> list[int]:
    """The numbers of the recipes that a part tries, 0 to `PARTS` - 1; none where there are more parts than recipes."""
    return list(range(part, trials, PARTS))
