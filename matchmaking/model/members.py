"""The networks of `interactions`: what they make of a pair's 47 inputs, and their layers.

Every pair of fields enters as the weighted product of its embeddings (a factorisation machine's second-order terms:
Rendle, ICDM 2010; feeding a network: He & Chua, SIGIR 2017). Beside them stands what a match is likely to hang on, so
that it needn't be learned from products: a weight of each kind of case with each specialization, and whether the
lawyer's city has the name of the client's location. The embeddings can then be held small: where they are free, ten
products of some thousand pairs are learned by heart.

A number is given as it is, and by where it lies between the octiles of the training rows (piecewise-linear encoding:
Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022): a match may hang on
whether a budget reaches a share of the fee, and a smooth function learns such a step slowly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matchmaking.data.schema import CATEGORICAL
from matchmaking.model import features
from matchmaking.model.recipe import Recipe

if TYPE_CHECKING:
    import keras

# fields of which each combination has a weight of its own, and fields that are asked whether their names are the same
COMBINED = ("case_type", "specialization")
COMPARED = ("location", "city")
BINS = 8
# of more rows than that so many are enough for octiles
QUANTILE_ROWS = 100_000
# thresholds nearer to each other, in standard deviations, are one: a steeper bin would magnify what float32 leaves open
NEAREST = 1e-3


def thresholds(numbers: np.ndarray) -> list[np.ndarray]:
    """Where the bins of each number begin and end: its octiles in the training rows.

    Args:
        numbers: standardised, shape (rows, numbers); of more than `QUANTILE_ROWS` every so-manieth row is looked at.

    Returns:
        By number, float64, ascending, at most `BINS` + 1; a single one of a number that is the same in all rows.
    """
    some = numbers[:: -(-len(numbers) // QUANTILE_ROWS)].astype(float)
    octiles = np.quantile(some, np.linspace(0, 1, BINS + 1), axis=0)
    return [np.unique(np.round(each / NEAREST)) * NEAREST for each in octiles.T]


def member_logits(categories: Sequence[Sequence[str]], edges: Sequence[np.ndarray], recipe: Recipe) -> keras.Model:
    """(rows, 47) -> logits (rows, members, 1): the members side by side, none sharing a trained weight with another.

    Args:
        categories: the names of each field's one-hot columns, by field of `CATEGORICAL`; the other inputs are numbers.
        edges: as `thresholds` gives them.
        recipe: a completed one.
    """
    import keras
    from keras import layers

    members, embedding = recipe.members, recipe.embedding
    decay = keras.regularizers.L2(recipe.weight_decay)
    # products of embeddings start at a saddle when the embeddings start near zero
    spread = keras.initializers.RandomNormal(stddev=0.5)
    inputs = keras.Input((features.INPUT_WIDTH,), name="inputs")
    columns = layers.Reshape((features.INPUT_WIDTH, 1))(inputs)

    def block(start: int, width: int) -> Any:
        return layers.Flatten()(layers.Cropping1D((start, features.INPUT_WIDTH - start - width))(columns))

    starts = np.cumsum([0, *map(len, categories)]).tolist()
    one_hot = [block(start, len(names)) for start, names in zip(starts, categories, strict=False)]
    # (rows, members, 1, embedding) each
    embedded = [
        layers.EinsumDense(
            "bi,mfik->bmfk", output_shape=(members, 1, embedding), kernel_initializer=spread, kernel_regularizer=decay
        )(columns)
        for columns in one_hot
    ]
    # every pair once, and all pairs in one multiplication: many small operations would cost more than their sums
    pairs = list(itertools.combinations(range(len(one_hot)), 2))
    left, right = (layers.Concatenate(axis=2)([embedded[pair[side]] for pair in pairs]) for side in (0, 1))
    products = layers.EinsumDense(
        "bmpk,mpk->bmp", output_shape=(members, len(pairs)), kernel_initializer="ones", kernel_regularizer=decay
    )(layers.Multiply()([left, right]))
    first, second = (CATEGORICAL.index(field) for field in COMBINED)
    combined = layers.EinsumDense(
        "bij,mijo->bmo", output_shape=(members, 1), kernel_initializer="zeros", kernel_regularizer=decay
    )(
        layers.Multiply(name="combinations")(
            [
                layers.Reshape((len(categories[first]), 1))(one_hot[first]),
                layers.Reshape((1, len(categories[second])))(one_hot[second]),
            ]
        )
    )
    numbers = block(starts[-1], features.INPUT_WIDTH - starts[-1])
    first, second = (CATEGORICAL.index(field) for field in COMPARED)
    told = [numbers, _same_name(one_hot[first], one_hot[second], categories[first], categories[second])]
    if any(len(each) > 1 for each in edges):
        told.append(_bins(numbers, edges))
    # the first layer, of what all members are told and of what each finds: in two parts, so as not to repeat the former
    units, *further = recipe.hidden
    hidden = layers.Add()(
        [
            layers.EinsumDense("bd,mdh->bmh", output_shape=(members, units), kernel_regularizer=decay)(
                layers.Concatenate()(told)
            ),
            layers.EinsumDense("bmd,mdh->bmh", output_shape=(members, units), bias_axes="mh", kernel_regularizer=decay)(
                layers.Concatenate()([products, combined])
            ),
        ]
    )
    hidden = layers.Dropout(recipe.dropout)(layers.Activation("swish")(hidden))
    for units in further:
        hidden = layers.EinsumDense(
            "bmd,mdh->bmh",
            output_shape=(members, units),
            bias_axes="mh",
            activation="swish",
            kernel_regularizer=decay,
        )(hidden)
        hidden = layers.Dropout(recipe.dropout)(hidden)
    logit = layers.EinsumDense("bmd,mdh->bmh", output_shape=(members, 1), bias_axes="mh", name="member_logits")(hidden)
    return keras.Model(inputs, logit, name="members")


def _same_name(one: Any, other: Any, names: Sequence[str], others: Sequence[str]) -> Any:
    """(rows, 1): 1 where two one-hot blocks stand for the same name, 0 otherwise, also where a block is all zeros."""
    from keras import layers

    # moves each column of the other to the place that its name has in the one
    moved = layers.Dense(len(names), use_bias=False, trainable=False, name="by_name")
    found = layers.Dot(axes=1, name="same_name")([one, moved(other)])
    moved.set_weights([(np.array(others)[:, None] == np.array(names)).astype(np.float32)])
    return found


def _bins(numbers: Any, edges: Sequence[np.ndarray]) -> Any:
    """(rows, bins): how far into each bin its number has come, from 0 (not yet there) to 1 (beyond it)."""
    from keras import layers

    which = [number for number, each in enumerate(edges) for _ in each[1:]]
    begin = np.concatenate([each[:-1] for each in edges])
    width = np.concatenate([np.diff(each) for each in edges])
    kernel = np.zeros((len(edges), len(which)))
    kernel[which, np.arange(len(which))] = 1 / width
    scaled = layers.Dense(len(which), trainable=False, name="bins")
    found = layers.ReLU(max_value=1.0)(scaled(numbers))
    scaled.set_weights([kernel.astype(np.float32), (-begin / width).astype(np.float32)])
    return found
