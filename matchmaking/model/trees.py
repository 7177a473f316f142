"""The boosted trees of `interactions`: grown by scikit-learn, and served as layers of Keras.

A match may hang on whether a budget reaches a share of the fee. A tree learns such a step at once, a network of smooth
units slowly; what is smooth the network learns better (`docs/sweep.md` has both alone and together). Few and shallow
trees are enough, since they are told what a match is likely to hang on, as the networks are: a category by its rank in
the rate of matches, each kind of case with each specialization too, and whether city and location have the same name.

A tree becomes layers as Nakandala et al. have it ("A Tensor Compiler for Unified Machine Learning Prediction Serving",
OSDI 2020, "GEMM"): one multiplication asks all splits, a second finds the leaf whose splits were all answered its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchmaking.data.schema import CATEGORICAL
from matchmaking.model.members import COMBINED, COMPARED

if TYPE_CHECKING:
    import keras

TREES = 30
DEPTH = 3
LEARNING_RATE = 0.25
# of more rows than that so many are enough for trees of so few leaves
MOST_ROWS = 200_000
# a category's rate of matches is that of its pairs and of so many with the rate of all
PRIOR_ROWS = 20
# a split is a ramp this much steeper than its column: nothing but a value within .00005 of a threshold is on it
STEEPNESS = 1e4


@dataclass(frozen=True)
class Trees:
    """Boosted trees: their sum is a logit.

    Attributes:
        columns: what splits ask for, of what `seen` gives: float32 of shape (83, columns).
        boosting: the fitted HistGradientBoostingClassifier, on those columns.
    """

    columns: np.ndarray
    boosting: Any

    def logits(self, inputs: np.ndarray, categories: Sequence[Sequence[str]]) -> np.ndarray:
        """What the trees give for model inputs (rows, 47): float64 of shape (rows,)."""
        found: np.ndarray = self.boosting.decision_function(seen(inputs, categories) @ self.columns)
        return found


def grow(inputs: np.ndarray, match: np.ndarray, categories: Sequence[Sequence[str]], seed: int) -> Trees:
    """Grows the trees on training rows.

    Args:
        inputs: of each row, float32 of shape (rows, 47).
        match: of each row, 0 or 1.
        categories: the names of each field's one-hot columns, as production's encoder has them.
        seed: of the boosting.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    told = seen(inputs, categories)
    columns = _columns(told, match, categories)
    boosting = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_depth=DEPTH,
        max_leaf_nodes=None,
        learning_rate=LEARNING_RATE,
        early_stopping=False,
        random_state=seed,
    )
    return Trees(columns, boosting.fit(told @ columns, match))


def seen(inputs: np.ndarray, categories: Sequence[Sequence[str]]) -> np.ndarray:
    """What columns are made of: the inputs, whether two names are the same, and each combination of two categories.

    Args:
        inputs: float32 of shape (rows, 47).
        categories: as for `grow`.

    Returns:
        float32 of shape (rows, 83).
    """
    blocks = np.split(inputs, np.cumsum([len(names) for names in categories]), axis=1)
    one, other = (CATEGORICAL.index(field) for field in COMPARED)
    same = (np.array(categories[other])[:, None] == np.array(categories[one])).astype(np.float32)
    first, second = (CATEGORICAL.index(field) for field in COMBINED)
    combined = blocks[first][:, :, None] * blocks[second][:, None, :]
    return np.concatenate(
        [
            inputs,
            np.sum(blocks[one] * (blocks[other] @ same), axis=1, keepdims=True),
            combined.reshape(len(inputs), -1),
        ],
        axis=1,
    )


def as_layers(trees: Trees, members: keras.Model) -> Any:
    """The trees as layers behind the inputs of the members: logits, of shape (rows, 1).

    The splits and leaves are read from the fitted trees, of which scikit-learn has no public description; the version
    is pinned, and a test compares what both give.
    """
    from keras import layers

    told = layers.Concatenate()(
        [
            members.input,
            members.get_layer("same_name").output,
            layers.Flatten()(members.get_layer("combinations").output),
        ]
    )
    splits, ask, turns, offsets, values = _arrays(trees)
    count, leaves = values.shape
    column = layers.Dense(trees.columns.shape[1], use_bias=False, trainable=False, name="tree_columns")
    split = layers.Dense(ask.shape[1], trainable=False, name="tree_splits")
    leaf = layers.EinsumDense(
        "btn,tnl->btl", output_shape=(count, leaves), bias_axes="tl", activation="relu", trainable=False, name="leaves"
    )
    total = layers.Dense(1, trainable=False, name="trees")
    answered = layers.ReLU(max_value=1.0)(split(column(told)))
    found = total(layers.Flatten()(leaf(layers.Reshape((count, ask.shape[1] // count))(answered))))
    column.set_weights([trees.columns])
    split.set_weights([ask, splits])
    leaf.set_weights([turns, offsets])
    total.set_weights([values.reshape(-1, 1), np.ravel(trees.boosting._baseline_prediction).astype(np.float32)])
    return found


def _columns(told: np.ndarray, match: np.ndarray, categories: Sequence[Sequence[str]]) -> np.ndarray:
    """The columns of splits: the numbers, whether names are the same, and each category's rank in the rate of matches.

    Ranks are counted from where the rate of all rows would stand, so that an unknown category, whose block is all
    zeros, is taken for one that is a little below it.
    """
    ends = np.cumsum([len(names) for names in categories])
    numbers = np.arange(ends[-1], told.shape[1] - np.prod([len(categories[CATEGORICAL.index(f)]) for f in COMBINED]))
    blocks = [*np.split(np.arange(ends[-1]), ends[:-1]), np.arange(numbers[-1] + 1, told.shape[1])]
    columns = np.zeros((told.shape[1], len(numbers) + len(blocks)), dtype=np.float32)
    columns[numbers, np.arange(len(numbers))] = 1
    overall = match.mean()
    for place, block in enumerate(blocks, start=len(numbers)):
        rows, matches = told[:, block].sum(axis=0, dtype=float), match.astype(float) @ told[:, block]
        rate = (matches + PRIOR_ROWS * overall) / (rows + PRIOR_ROWS)
        columns[block, place] = np.argsort(np.argsort(rate, kind="stable")) - (np.sum(rate < overall) - 0.75)
    return columns


def _arrays(trees: Trees) -> tuple[np.ndarray, ...]:
    """The weights of the layers, all trees as one with all of its splits and leaves.

    Returns:
        splits: biases (trees * nodes,) and ask: weights (columns, trees * nodes), which give 1 where a row goes right;
        turns: weights (trees, nodes, leaves) and offsets: biases (trees, leaves), which give 1 at a row's leaf;
        values: of the leaves, (trees, leaves).
    """
    grown = [each[0].nodes for each in trees.boosting._predictors]
    count, nodes, leaves = len(grown), 2**DEPTH - 1, 2**DEPTH
    ask = np.zeros((trees.columns.shape[1], count, nodes), dtype=np.float32)
    splits = np.zeros((count, nodes), dtype=np.float32)
    turns = np.zeros((count, nodes, leaves), dtype=np.float32)
    # a leaf that there isn't is never reached
    offsets = np.full((count, leaves), -1.0, dtype=np.float32)
    values = np.zeros((count, leaves), dtype=np.float32)
    for tree, each in enumerate(grown):
        inner = {int(node): place for place, node in enumerate(np.flatnonzero(each["is_leaf"] == 0))}
        for node, place in inner.items():
            ask[int(each["feature_idx"][node]), tree, place] = STEEPNESS
            splits[tree, place] = 0.5 - STEEPNESS * each["num_threshold"][node]
        paths: list[tuple[int, tuple[tuple[int, float], ...]]] = [(0, ())]
        leaf = 0
        while paths:
            node, path = paths.pop()
            if node in inner:
                paths.append((int(each["left"][node]), (*path, (inner[node], -1.0))))
                paths.append((int(each["right"][node]), (*path, (inner[node], 1.0))))
                continue
            for place, turn in path:
                turns[tree, place, leaf] = turn
            offsets[tree, leaf] = 1 - sum(turn > 0 for _, turn in path)
            values[tree, leaf] = each["value"][node]
            leaf += 1
    return splits.ravel(), ask.reshape(len(ask), -1), turns, offsets, values
