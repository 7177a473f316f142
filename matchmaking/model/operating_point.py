"""The operating point as 0.5, which is where the service decides: what is served for a logit, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# where probabilities begin to be served as they are: below the operating point by this share of its logit, which makes
# the slope between 3.5 (a steeper one would magnify what float32 leaves open), and above it from this logit on, .55
BELOW = 0.4
ABOVE = 0.2


def serving_knots(point: float) -> tuple[np.ndarray, np.ndarray]:
    """How the operating point becomes 0.5: a line through knots, of a logit -> of the logit that is served.

    The ends go on with slope 1, so a probability is served as it was found, except near the operating point. Where that
    is .32, what is from .32 to .55 is served as .5 to .55, and what is from .26 to .32 as .26 to .5, in their order.
    Adding the same to all logits would make the point 0.5 too, and would overstate every probability, which is two
    fifths of what the Brier score is above its ceiling (`python -m benchmarks.candidate way`).

    Args:
        point: in (0, 0.5]; of 0.5 the line is straight. No F-beta that counts recall as much as precision, or more, has
            its highest value above 0.5.

    Returns:
        Logits and what is served for them, float64 of shape (3,) each, both ascending. In a model's float32 logits that
        differ by less than some 1e-6 may change places, where the point is .1 or less.
    """
    found = math.log(point / (1 - point))
    low = min((1 + BELOW) * found, -ABOVE)
    return np.array([low, found, ABOVE]), np.array([low, 0.0, ABOVE])


def as_found(served: np.ndarray, point: float) -> np.ndarray:
    """The logits of which a model with that operating point serves these."""
    logits, knots = serving_knots(point)
    within = np.clip(served, knots[0], knots[-1])
    return np.interp(within, knots, logits) + (served - within)


def right_at_one_half(logit: Any, point: float) -> Any:
    """Layers that make of the logit what `serving_knots` says, and a probability of that."""
    import keras

    logits, knots = serving_knots(point)
    slopes = np.concatenate([[1], np.diff(knots) / np.diff(logits), [1]])
    hinges = keras.layers.Dense(len(logits), activation="relu", name="operating_point")
    output = keras.layers.Dense(1, activation="sigmoid", name="match_probability")
    # the logit itself, so that of one that is NaN the probability is NaN: what a hinge makes of it isn't said
    probability = output(keras.layers.Concatenate()([logit, hinges(logit)]))
    # how far the logit is above each knot
    hinges.set_weights([np.ones((1, len(logits)), np.float32), -logits.astype(np.float32)])
    output.set_weights([np.array([slopes[0], *np.diff(slopes)], np.float32)[:, None], np.zeros(1, np.float32)])
    return probability
