"""What Keras does beside an epoch of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def validate_averages(model: keras.Model) -> keras.callbacks.Callback:
    """Makes val_loss that of the averaged weights, which are the ones that are kept.

    Keras' own SwapEMAWeights swaps them by adding and subtracting, which changes the last digits of the training.
    """
    import keras

    live: list[np.ndarray] = []

    def averages_in(logs: Any = None) -> None:
        live[:] = [np.array(weights) for weights in model.trainable_variables]
        for weights, average in zip(
            model.trainable_variables, model.optimizer._model_variables_moving_average, strict=True
        ):
            weights.assign(average)

    def averages_out(logs: Any = None) -> None:
        for weights, before in zip(model.trainable_variables, live, strict=True):
            weights.assign(before)

    return keras.callbacks.LambdaCallback(on_test_begin=averages_in, on_test_end=averages_out)


def progress(epochs: int) -> keras.callbacks.Callback:
    """Prints a line every tenth of the epochs: what a person sees in a pod's log."""
    import keras

    every = max(1, epochs // 10)

    def say(epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % every == 0 or epoch + 1 == epochs:
            print(
                f"epoch {epoch + 1}/{epochs}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}",
                flush=True,
            )

    on_epoch_end: Callable[..., None] = say
    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
