"""How a candidate is trained: what can be said, and what each algorithm does where nothing is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matchmaking.model import ALGORITHMS

# (epochs, batch size, learning rate) of each
OWN = {"interactions": (30, 512, 8e-3), "dense": (30, 64, 1e-3)}
# the architecture of `interactions`, chosen on out-of-fold predictions
MEMBERS = 3
EMBEDDING = 8
HIDDEN = (32, 16)
DROPOUT = 0.3
WEIGHT_DECAY = 1e-4
# of `dense`, whose architecture is that of old
DENSE_DROPOUT = 0.3
# of few rows smaller batches, so that there are steps enough to learn anything in
MIN_STEPS = 500
SMALLEST_BATCH = 32


@dataclass(frozen=True)
class Recipe:
    """How a candidate is trained.

    Attributes:
        algorithm: one of `ALGORITHMS`.
        seed: of initial weights, folds and shuffling; the same seed gives the same model on the same machine.
        epochs: passes over the training rows, at most (fewer where the rows are many, see `train.MAX_STEPS`; of
            millions a pass is over some of them, `train.EPOCH_ROWS`).
        batch_size: rows a step.
        learning_rate: the optimiser's first; it falls to 0 along a cosine (`interactions`).
        members: networks whose mean logit is served, with that of trees; each is trained on all folds but its own.
        embedding: numbers that stand for a category.
        hidden: units of the layers behind the products, from first to last.
        dropout: share of the hidden units that a step leaves out.
        weight_decay: L2 penalty of all weights but the last layer's.

    Where one from `epochs` on is 0, or without layers, it is the algorithm's own: see `completed`. From `members` on
    they are those of `interactions` alone.
    """

    algorithm: str = ALGORITHMS[0]
    seed: int = 0
    epochs: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    members: int = 0
    embedding: int = 0
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    weight_decay: float = 0.0


def completed(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with the algorithm's own values in place of those that it doesn't say, for so many training rows."""
    epochs, batch_size, learning_rate = OWN[recipe.algorithm]
    epochs = recipe.epochs or epochs
    recipe = replace(
        recipe,
        epochs=epochs,
        batch_size=recipe.batch_size or min(batch_size, max(SMALLEST_BATCH, rows * epochs // MIN_STEPS)),
        learning_rate=recipe.learning_rate or learning_rate,
    )
    if recipe.algorithm == "dense":
        return recipe
    return replace(
        recipe,
        members=recipe.members or MEMBERS,
        embedding=recipe.embedding or EMBEDDING,
        hidden=recipe.hidden or HIDDEN,
        dropout=recipe.dropout or DROPOUT,
        weight_decay=recipe.weight_decay or WEIGHT_DECAY,
    )


def as_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from its fields, as JSON has them."""
    return Recipe(**{**values, "hidden": tuple(values["hidden"])})


def read_choice(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that was chosen, and how: what `sweep.choose` wrote."""
    found = json.loads(path.read_text())
    return as_recipe(found["recipe"]), found["sweep"]
