"""A model's probabilities, the same for the same file on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from matchmaking.base.errors import InputError
from matchmaking.model import keras_file

# rows that a model is asked at once; how many there are decides how the last digits are rounded
AT_ONCE = 8192


def predict(model_path: Path, inputs: np.ndarray) -> np.ndarray:
    """A saved model's probabilities: float64 of shape (rows,), in [0, 1]; errors as of `predict_batches`."""
    (probabilities,) = predict_batches(model_path, [inputs])
    return probabilities


def predict_batches(model_path: Path, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """A saved model's probabilities, for one batch of inputs after the other: float64 of shape (rows,), in [0, 1].

    Raises:
        InputError: Keras cannot load the file, or the model gives NaN.
    """
    prepare_tensorflow()
    import keras
    import tensorflow as tf

    with keras_file.checked_copy(model_path) as alone:
        try:
            model = keras.models.load_model(alone, compile=False)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise InputError(f"{model_path}: Keras {keras.__version__} cannot load it: {error}") from error
    # what `model.predict` does, to the bit, without its dataset of each batch
    rows_of = tf.TensorSpec([None, model.input_shape[-1]], tf.float32)
    ask = tf.function(lambda inputs: model(inputs, training=False), input_signature=[rows_of])
    nan = rows = 0
    for inputs in batches:
        parts = [ask(inputs[start : start + AT_ONCE]).numpy() for start in range(0, max(1, len(inputs)), AT_ONCE)]
        probabilities = np.concatenate(parts).astype(float).ravel()
        nan, rows = nan + int(np.isnan(probabilities).sum()), rows + len(inputs)
        yield probabilities
    if nan:
        raise InputError(f"{model_path} gives NaN for {nan:,} of {rows:,} pairs; it can't be served")


def prepare_tensorflow() -> None:
    """Sets TensorFlow up, to be called before it is used: no start-up messages, one thread, graphs as they are written.

    A network this small trains faster on one thread, and then the number of cores doesn't change how sums are rounded.
    Grappler, which rewrites graphs, orders sums by the addresses of its tables: with it one training in 25 or so of
    the same seed differed in the last digit, whatever `enable_op_determinism` says.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
