"""The candidate: a small ensemble of networks with boosted trees, or the plain dense recipe of old.

Whether a pair matches hangs on how fields fit together (the lawyer's field and the kind of case, the lawyer's city and
the client's), which a dense network has to discover in one-hot columns. The networks of `interactions` are given it
(see `members`), and so are the trees, which know steps where networks are smooth (see `trees`).

Several members train at once, each on all but its own fold, so that every training row has a prediction by a member
that has not seen it, and for each fold trees are grown on the others. Those out-of-fold predictions choose how much the
trees count and the operating point: the test rows are never looked at. They are of single members and of trees of fewer
rows, the point is the ensemble's: on fresh pairs it costs .0005 of F-beta against the best point there is
(`python -m benchmarks.candidate point`), and nothing that was tried costs clearly less: calibrating the
members first, matching the share of pairs above it, solving for the ensemble's calibration over unlabelled pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.data.batches import batches, rows_in
from matchmaking.model import ALGORITHMS, features, lineage, production, trees
from matchmaking.model.callbacks import progress, validate_averages
from matchmaking.model.members import member_logits, thresholds
from matchmaking.model.operating_point import right_at_one_half
from matchmaking.model.predict import prepare_tensorflow
from matchmaking.model.recipe import DENSE_DROPOUT, MIN_STEPS, Recipe, completed

if TYPE_CHECKING:
    import keras

TRAINING_RECORD = "training.json"
# recall counts this much more than precision where the operating point is chosen: the one is a person who needed help
# and was not matched, the other a suggestion that is declined
RECALL_WEIGHT = 1.25
# enough optimiser steps to converge on any number of rows: past it, more rows mean fewer passes over them
MAX_STEPS = 4_000
MIN_EPOCHS = 3
# of more rows than that an epoch of `interactions` passes over so many, which are others in each epoch as long as there
# are others: MIN_EPOCHS of them are 8,200 steps, and more gain next to nothing (`benchmarks.candidate many`)
EPOCH_ROWS = 1_400_000
# of more rows than that so many, drawn by chance, are enough for val_loss and the operating point
JUDGED_ROWS = 400_000
# unless they hold fewer than that of matches, or of the others: then all rows are asked
JUDGED_OF_A_CLASS = 1_000
# the kept weights are averages over about the last 1 / (1 - MOMENTUM) steps, a hundred, where a training has MIN_STEPS;
# in a shorter one they would be of weights that still have far to go
MOMENTUM = 0.99
VALIDATION_SHARE = 0.15


class Diverged(MlopsError):
    """A training whose loss became NaN: its weights are of no use."""


@dataclass(frozen=True)
class Training:
    """What came of a training, beside the model.

    Attributes:
        recipe: what was asked for, with the epochs that were run.
        history: loss and val_loss by epoch; of `interactions` the latter is that of `JUDGED_ROWS` rows where there are
            more.
        operating_point: the probability that was made 0.5, in (0, 1).
        logit_shift: what was added there to make it so, in logits; see `operating_point`.
        tree_weight: of the trees' logit in the one that is served, in [0, 1]; the members' mean has the rest.
        rows: training rows.
        drawn: how many of them took part in a step: all, where `EPOCH_ROWS` an epoch are all.
    """

    recipe: Recipe
    history: dict[str, list[float]]
    operating_point: float
    logit_shift: float
    tree_weight: float
    rows: int
    drawn: int


def train_candidate(
    train_path: Path,
    production_dir: Path,
    out_dir: Path,
    recipe: Recipe,
    *,
    lineage_path: Path | None = None,
    sweep: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains a candidate and writes it as a bundle, with a record of the training.

    Args:
        train_path: parquet file of training pairs.
        production_dir: the production bundle, whose encoder and scaler are copied byte for byte; a folder without one
            bootstraps: the encoder and the scaler are fitted on the training pairs.
        out_dir: becomes the candidate's bundle, plus `TRAINING_RECORD`.
        recipe: how to train.
        lineage_path: HDF5 file with the lineage of the training pairs, which becomes part of the model file; None for a
            model that won't know which they were.
        sweep: how the recipe was chosen, as `sweep.choose` tells it; becomes part of the record.

    Returns:
        The record: the fields of `Training` as plain values, `bootstrapped`, and `sweep` where there was one.
    """
    from matchmaking.base import files

    out_dir.mkdir(parents=True, exist_ok=True)
    bootstrapped = not production.present(production_dir)
    encoders = encoders_for(train_path, production_dir)
    if bootstrapped:
        production.write_encoders(out_dir, encoders)
    else:
        for name in (production.ENCODER, production.SCALER):
            files.copy_file(production_dir / name, out_dir / name)
    read = batches(train_path, what="encoded")
    inputs = features.compact(read, rows_in(train_path), encoders.encoder, encoders.scaler)
    model, training = train(inputs, inputs.match, encoders.encoder.categories_, recipe)
    model.save(out_dir / production.MODEL, include_optimizer=False)
    if lineage_path is not None and (known := lineage.read_lineage(lineage_path)):
        lineage.write_lineage(out_dir / production.MODEL, known)
    record = {**asdict(training), "bootstrapped": bootstrapped, **({"sweep": sweep} if sweep else {})}
    (out_dir / TRAINING_RECORD).write_text(json.dumps(record, indent=1))
    return record


def encoders_for(train_path: Path, production_dir: Path) -> production.Encoders:
    """Production's encoder and scaler; without production, those fitted on the training pairs."""
    if production.present(production_dir):
        return production.read_encoders(production_dir)
    return production.Encoders(*features.fit_encoders(batches(train_path, what="fitted the encoder on")))


def train(
    inputs: features.Compact | np.ndarray, match: np.ndarray, categories: Sequence[Sequence[str]], recipe: Recipe
) -> tuple[keras.Model, Training]:
    """Trains a model that is right at 0.5.

    Args:
        inputs: of each row, as `features.compact` gives them, or float32 of shape (rows, 47).
        match: float32 of 0 and 1, shape (rows,).
        categories: the names of each field's one-hot columns, as production's encoder has them; the other inputs are
            numbers.
        recipe: how to train.

    Returns:
        A Keras model (rows, 47) -> probability (rows, 1) of built-in layers only, and the record of its training.

    Raises:
        InputError: an unknown algorithm.
        Diverged: of `interactions`, its members give NaN.
    """
    if recipe.algorithm not in ALGORITHMS:
        raise InputError(f"--algorithm {recipe.algorithm}: unknown; choose one of {', '.join(ALGORITHMS)}")
    recipe = completed(recipe, len(match))
    prepare_tensorflow()
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    if recipe.algorithm == "dense":
        return _train_dense(inputs, match, recipe)
    return _train_interactions(inputs, match, categories, recipe)


def choose_operating_point(match: np.ndarray, probability: np.ndarray, recall_weight: float = RECALL_WEIGHT) -> float:
    """The threshold for the highest F-beta, beta being `recall_weight`: in (0, 1).

    For calibrated probabilities it is F* / (1 + beta^2), F* being the highest F-beta itself: Lipton, Elkan &
    Narayanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", ECML PKDD 2014 (there for beta = 1).
    F* hardly depends on the sample, while the threshold where a sample happens to reach it jumps about.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(match, probability)
    beta2 = recall_weight**2
    best = np.max((1 + beta2) * precision * recall / np.maximum(beta2 * precision + recall, 1e-12))
    return float(np.clip(best / (1 + beta2), 1e-3, 1 - 1e-3))


def _train_interactions(
    inputs: features.Compact | np.ndarray, match: np.ndarray, categories: Sequence[Sequence[str]], recipe: Recipe
) -> tuple[keras.Model, Training]:
    import keras
    from sklearn.model_selection import StratifiedKFold

    numbers = inputs.numbers if isinstance(inputs, features.Compact) else inputs[:, sum(map(len, categories)) :]
    logits = member_logits(categories, thresholds(numbers), recipe)
    rows = len(match)
    fold = np.empty(rows, dtype=np.int8)
    folds = StratifiedKFold(recipe.members, shuffle=True, random_state=recipe.seed)
    for member, (_, held_out) in enumerate(folds.split(match, match)):
        fold[held_out] = member
    counted, loss = _fold_loss(recipe.members)

    steps = math.ceil(min(rows, EPOCH_ROWS) / recipe.batch_size)
    epochs = min(recipe.epochs, max(MIN_EPOCHS, MAX_STEPS // steps))
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, epochs * steps)
    model = _by_row(logits, inputs)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=momentum(epochs * steps)), loss=loss
    )
    every = np.arange(rows, dtype=np.int32)
    judged = every if rows <= JUDGED_ROWS else _drawn(rows, JUDGED_ROWS, recipe.seed)
    if min(np.count_nonzero(match[judged] == label) for label in (0, 1)) < JUDGED_OF_A_CLASS:
        judged = every
    labels, drawn = counted(match, fold, held_out=False), rows
    told: dict[str, Any] = {"x": every, "y": labels, "batch_size": recipe.batch_size}
    if rows > EPOCH_ROWS:
        # shuffled here, and not by Keras, so that an epoch goes on where the one before it ended
        shown = _drawn(rows, epochs * steps * recipe.batch_size, recipe.seed)
        told = {"x": _in_steps(shown, labels[shown], recipe.batch_size), "steps_per_epoch": steps}
        drawn = min(rows, len(shown))
    fitted = model.fit(
        **told,
        validation_data=(judged, counted(match[judged], fold[judged], held_out=True)),
        validation_batch_size=8192,
        epochs=epochs,
        verbose=0,
        callbacks=[validate_averages(model), progress(epochs)],
    )
    predicted = model.predict(judged, batch_size=8192, verbose=0)[:, :, 0]
    members = predicted[np.arange(len(judged)), fold[judged]].astype(float)
    if np.isnan(members).any():
        raise Diverged(
            f"the training diverged, its loss is NaN; a learning rate below {recipe.learning_rate:g} may help"
        )
    some = every if rows <= trees.MOST_ROWS else _drawn(rows, trees.MOST_ROWS, recipe.seed)
    grown = trees.grow(_rows(inputs, some), match[some], categories, recipe.seed)
    by_trees = np.empty(len(judged))
    for member in range(recipe.members):
        others, own = some[fold[some] != member], np.flatnonzero(fold[judged] == member)
        unseen = trees.grow(_rows(inputs, others), match[others], categories, recipe.seed)
        for part in np.array_split(own, math.ceil(len(own) / trees.MOST_ROWS)):
            by_trees[part] = unseen.logits(_rows(inputs, judged[part]), categories)
    weight = blend_weight(match[judged], members, by_trees)
    point = choose_operating_point(match[judged], 1 / (1 + np.exp(-blend(members, by_trees, weight))))
    shift = -math.log(point / (1 - point))
    mean = keras.layers.GlobalAveragePooling1D(name="mean_of_members")(logits.output)
    blended = keras.layers.Dense(1, use_bias=False, name="members_and_trees")
    logit = blended(keras.layers.Concatenate()([mean, trees.as_layers(grown, logits)]))
    blended.set_weights([np.array([[1 - weight], [weight]], np.float32)])
    served = keras.Model(logits.input, right_at_one_half(logit, point), name="lawyer_match")
    history = {name: [round(float(value), 6) for value in values] for name, values in fitted.history.items()}
    return served, Training(replace(recipe, epochs=epochs), history, point, shift, weight, rows, drawn)


def blend(members: np.ndarray, by_trees: np.ndarray, weight: float) -> np.ndarray:
    """Logits of both together: the trees' by their weight, the members' by the rest."""
    return (1 - weight) * members + weight * by_trees


def blend_weight(match: np.ndarray, members: np.ndarray, by_trees: np.ndarray) -> float:
    """The trees' weight, in [0, 1], of the lowest log loss on pairs that neither has seen.

    Stacking with one weight: Breiman, "Stacked Regressions", Machine Learning 24, 1996; of logits, a logarithmic
    opinion pool.
    """
    from scipy.optimize import minimize_scalar

    sign = np.where(match > 0.5, -1.0, 1.0)
    return float(
        minimize_scalar(
            lambda weight: np.logaddexp(0, sign * blend(members, by_trees, weight)).mean(),
            bounds=(0, 1),
            method="bounded",
        ).x
    )


def _rows(inputs: features.Compact | np.ndarray, which: np.ndarray) -> np.ndarray:
    """Some rows as the model takes them, float32 of shape (rows, 47)."""
    return inputs.rows(which) if isinstance(inputs, features.Compact) else inputs[which]


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    """Numbers of rows in an order by chance, int32 of shape (count,): none comes again before all have come."""
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(np.arange(rows, dtype=np.int32)) for _ in range(math.ceil(count / rows))]
    return np.concatenate(passes)[:count]


def _in_steps(shown: np.ndarray, labels: np.ndarray, batch_size: int) -> Any:
    """The rows of each step, in this order: a dataset of pairs of shape (batch_size,), of rows and their labels.

    Of arrays Keras would make one that tf.data tunes. Its tuner sleeps twice as long each time, and what isn't read to
    its end, as with `steps_per_epoch`, ends no sooner than that wakes up: 41 s after a training of 125 s.
    """
    import tensorflow as tf

    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    steps = (shown.reshape(-1, batch_size), labels.reshape(-1, batch_size))
    return tf.data.Dataset.from_tensor_slices(steps).with_options(untuned)


def _by_row(model: keras.Model, inputs: features.Compact | np.ndarray) -> keras.Model:
    """The model, asked for training rows by their numbers: int32 (rows,) -> what it gives for their inputs.

    So the data is here once, and compact, while Keras shuffles, batches and copies, for training and again for
    validation, nothing but numbers; the 47 columns are there for the rows of a step. What is computed is the same.
    """
    import keras
    import tensorflow as tf

    if isinstance(inputs, features.Compact):
        # not tf.constant, which copies it twice
        codes, numbers = (
            tf.experimental.dlpack.from_dlpack(array.__dlpack__()) for array in (inputs.codes, inputs.numbers)
        )
        blocks = [tf.constant(block) for block in inputs.blocks]
    else:
        codes, numbers, blocks = None, tf.constant(inputs), []

    class Rows(keras.layers.Layer):
        def call(self, which: Any) -> Any:
            found = [tf.gather(numbers, which)]
            if blocks:
                code = tf.cast(tf.gather(codes, which), tf.int32)
                found = [*(tf.gather(block, code[:, place]) for place, block in enumerate(blocks)), *found]
            return tf.ensure_shape(tf.concat(found, axis=1), (None, features.INPUT_WIDTH))

    which = keras.Input((), dtype="int32", name="row")
    return keras.Model(which, model(Rows()(which)))


def _fold_loss(members: int) -> tuple[Callable[..., np.ndarray], Callable[..., Any]]:
    """The members' binary cross-entropy, each on the rows that count for it, and what it is told of every row.

    Returns:
        A function (match, fold, held_out) -> a number a row, uint8 of shape (rows,): its label, its fold, and whether
        it counts for the member that has not seen it or for the others; and the loss of those and (rows, members, 1)
        logits, scaled so that it is a mean over the rows that count.
    """
    import keras
    import tensorflow as tf

    seen = (np.arange(members)[:, None] != np.arange(members)).astype(np.float32)
    # by held_out, fold and label
    weights = np.stack([seen * members / (members - 1), (1 - seen) * members]).repeat(2, axis=1).reshape(-1, members)

    def counted(match: np.ndarray, fold: np.ndarray, *, held_out: bool) -> np.ndarray:
        return (match.astype(np.uint8) + 2 * fold.astype(np.uint8) + 2 * members * held_out).astype(np.uint8)

    def loss(row: Any, logits: Any) -> Any:
        row = tf.cast(tf.reshape(row, (-1,)), tf.int32)
        match = tf.cast(row % 2, logits.dtype)[:, None, None]
        each = keras.losses.binary_crossentropy(tf.repeat(match, members, axis=1), logits, from_logits=True)
        return each * tf.gather(weights, row)

    return counted, loss


def momentum(steps: int) -> float:
    """Of the running average of the weights in a training of so many optimiser steps; 0 keeps the last weights."""
    return MOMENTUM if steps >= MIN_STEPS else 0.0


def _train_dense(
    inputs: features.Compact | np.ndarray, match: np.ndarray, recipe: Recipe
) -> tuple[keras.Model, Training]:
    """256-128-64 with dropout, stopped early on a validation part, judged at its own 0.5."""
    import keras
    from keras import layers
    from sklearn.model_selection import train_test_split

    model = keras.Sequential([keras.Input((features.INPUT_WIDTH,), name="inputs")], name="lawyer_match")
    for units in (256, 128, 64):
        model.add(layers.Dense(units, activation="relu"))
        model.add(layers.Dropout(DENSE_DROPOUT))
    model.add(layers.Dense(1, activation="sigmoid", name="match_probability"))
    x, x_val, y, y_val = train_test_split(
        np.arange(len(match), dtype=np.int32),
        match,
        test_size=VALIDATION_SHARE,
        random_state=recipe.seed,
        stratify=match,
    )
    epochs = min(recipe.epochs, max(MIN_EPOCHS, MAX_STEPS // math.ceil(len(y) / recipe.batch_size)))
    by_row = _by_row(model, inputs)
    by_row.compile(optimizer=keras.optimizers.Adam(recipe.learning_rate), loss="binary_crossentropy")
    fitted = by_row.fit(
        x,
        y,
        validation_data=(x_val, y_val),
        validation_batch_size=8192,
        batch_size=recipe.batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True), progress(epochs)],
    )
    history = {name: [round(float(value), 6) for value in values] for name, values in fitted.history.items()}
    ran = replace(recipe, epochs=len(history["loss"]))
    return model, Training(ran, history, 0.5, 0.0, 0.0, len(match), len(match))
