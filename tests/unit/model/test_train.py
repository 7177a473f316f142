"""Training: repeatable, servable, with its operating point at 0.5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import fbeta_score

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate, true_probability
from matchmaking.model import features, keras_file, production
from matchmaking.model.operating_point import BELOW, as_found, right_at_one_half
from matchmaking.model.predict import predict
from matchmaking.model.recipe import MEMBERS, Recipe
from matchmaking.model.train import (
    ALGORITHMS,
    MOMENTUM,
    RECALL_WEIGHT,
    choose_operating_point,
    momentum,
    train,
    train_candidate,
)

QUICK = Recipe(epochs=2, batch_size=256)


@pytest.fixture(scope="module")
def training(incumbent: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    pairs = generate(1_500, seed=5)
    encoders = production.read_encoders(incumbent)
    categories = encoders.encoder.categories_
    inputs = features.encode(pairs, encoders.encoder, encoders.scaler)
    return inputs, pairs["match"].to_numpy(np.float32), categories


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_model(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]], algorithm: str
) -> None:
    inputs, match, categories = training

    def fit(seed: int) -> np.ndarray:
        trained, _ = train(inputs, match, categories, replace(QUICK, algorithm=algorithm, seed=seed))
        return trained.predict(inputs[:200], verbose=0)

    np.testing.assert_array_equal(fit(1), fit(1))
    assert np.abs(fit(1) - fit(2)).max() > 1e-3


def test_the_operating_point_becomes_one_half(training: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> None:
    import keras

    inputs, match, categories = training
    trained, record = train(inputs, match, categories, replace(QUICK, epochs=20))
    found = keras.Model(trained.input, trained.get_layer("members_and_trees").output)
    logit = found.predict(inputs, verbose=0).ravel()
    unshifted = 1 / (1 + np.exp(-logit))
    assert record.logit_shift == pytest.approx(-np.log(record.operating_point / (1 - record.operating_point)))
    served = trained.predict(inputs, verbose=0).ravel()
    # as they are, but for those from the point to .55
    as_they_are = (logit < (1 + BELOW) * -record.logit_shift) | (unshifted > 0.55)
    assert as_they_are.any()
    np.testing.assert_allclose(served[as_they_are], unshifted[as_they_are], atol=1e-6)
    np.testing.assert_allclose(as_found(np.log(served / (1 - served)), record.operating_point), logit, atol=1e-4)
    clear = np.abs(unshifted - record.operating_point) > 1e-5
    np.testing.assert_array_equal((served >= 0.5)[clear], (unshifted >= record.operating_point)[clear])


@pytest.mark.parametrize("point", [0.001, 0.02, 0.3, 0.39, 0.5])
def test_the_operating_point_is_served_as_one_half_and_the_order_stays(point: float) -> None:
    import keras

    found = np.log(point / (1 - point))
    logits = np.unique(np.append(np.linspace(-16, 16, 4_001), found))
    one = keras.Input((1,))
    served = keras.Model(one, right_at_one_half(one, point)).predict(logits[:, None], verbose=0).ravel().astype(float)
    assert (np.diff(served[np.abs(logits) < 8]) > 0).all()
    at = np.searchsorted(logits, found)
    assert served[at] == pytest.approx(0.5, abs=1e-5)
    np.testing.assert_array_equal(served[logits > found + 1e-3] >= 0.5, True)
    np.testing.assert_array_equal(served[logits < found - 1e-3] < 0.5, True)
    given = 1 / (1 + np.exp(-logits))
    alike = (logits < found * (1 + BELOW) - 0.2) | (given > 0.55)
    np.testing.assert_allclose(served[alike], given[alike], atol=1e-5)
    inner = np.abs(logits) < 8
    back = as_found(np.log(served[inner] / (1 - served[inner])), point)
    np.testing.assert_allclose(back, logits[inner], atol=2e-3)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_of_a_logit_that_is_none_no_probability_is_served(rows: int) -> None:
    """Not even by TensorFlow as the service has it, whose ReLU makes 0 of NaN in small batches."""
    import keras

    one = keras.Input((1,))
    model = keras.Model(one, right_at_one_half(one, 0.3))
    assert np.isnan(model.predict(np.full((rows, 1), np.nan, np.float32), verbose=0)).all()


def test_the_saved_candidate_is_a_drop_in(incumbent: Path, tmp_path: Path) -> None:
    train_path = tmp_path / "train.parquet"
    pairs = generate(1_500, seed=5)
    pairs.to_parquet(train_path, index=False)
    record = train_candidate(train_path, incumbent, tmp_path / "candidate", QUICK)
    found = keras_file.check_model_file(tmp_path / "candidate" / production.MODEL)
    assert found["keras_version"] == keras_file.check_model_file(incumbent / production.MODEL)["keras_version"]
    assert record["bootstrapped"] is False
    encoders = production.check_bundle(tmp_path / "candidate")
    inputs = features.encode(pairs, encoders.encoder, encoders.scaler)
    first = predict(tmp_path / "candidate" / production.MODEL, inputs)
    assert first.shape == (1_500,)
    assert ((first > 0) & (first < 1)).all()


def test_more_rows_mean_fewer_passes(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, match, categories = training
    monkeypatch.setattr("matchmaking.model.train.MAX_STEPS", 24)
    _, record = train(inputs, match, categories, Recipe(epochs=30, batch_size=256))
    assert record.recipe.epochs == 4  # 24 steps of 6 batches
    assert len(record.history["loss"]) == 4


def test_of_many_rows_an_epoch_goes_on_where_the_one_before_it_ended(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    inputs, match, categories = training
    given: list[tuple[Any, int]] = []
    fit = keras.Model.fit

    def noted(self: keras.Model, x: Any, *args: Any, **kwargs: Any) -> Any:
        fitted = fit(self, x, *args, **kwargs)
        given.append((x, int(self.optimizer.iterations.numpy())))
        return fitted

    monkeypatch.setattr(keras.Model, "fit", noted)
    recipe = Recipe(epochs=3, batch_size=128)
    for epoch_rows, drawn, steps in ((1_500, 1_500, 36), (700, 1_500, 18), (384, 1_152, 9), (300, 1_152, 9)):
        monkeypatch.setattr("matchmaking.model.train.EPOCH_ROWS", epoch_rows)
        _, record = train(inputs, match, categories, recipe)
        assert (record.rows, record.drawn, record.recipe.epochs) == (1_500, drawn, 3)
        shown, ran = given.pop()
        assert ran == steps
        if epoch_rows < 1_500:
            # what is left unread of a dataset that is tuned would keep the training waiting
            assert shown.options().autotune.enabled is False
            rows, labels = (np.concatenate(parts) for parts in zip(*shown.as_numpy_iterator(), strict=True))
            assert len(rows) == steps * 128
            np.testing.assert_array_equal(labels % 2, match[rows])
            # none comes again before all have come
            assert len(set(rows[:1_500])) == drawn
        assert len(record.history["loss"]) == len(record.history["val_loss"]) == 3


def test_of_many_rows_some_choose_the_operating_point(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, match, categories = training
    whole, all_judged = train(inputs, match, categories, Recipe())
    monkeypatch.setattr("matchmaking.model.train.JUDGED_ROWS", 1_000)
    # too few matches among those: all are asked
    _, as_all = train(inputs, match, categories, Recipe())
    assert as_all == all_judged
    monkeypatch.setattr("matchmaking.model.train.JUDGED_OF_A_CLASS", 10)
    judged_by_some, some_judged = train(inputs, match, categories, Recipe())
    # the training is the same, what it is judged on isn't
    assert some_judged.history["loss"] == all_judged.history["loss"]
    members = [model.get_layer("member_logits").get_weights()[0] for model in (whole, judged_by_some)]
    np.testing.assert_array_equal(*members)
    assert some_judged.history["val_loss"] == pytest.approx(all_judged.history["val_loss"], rel=0.3)
    assert some_judged.operating_point != all_judged.operating_point
    assert some_judged.operating_point == pytest.approx(all_judged.operating_point, abs=0.05)


@pytest.mark.parametrize("beta", [1.0, 1.25, 2.0])
def test_the_operating_point_is_the_best_one_for_calibrated_probabilities(beta: float) -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.3, 1.5, 200_000)
    match = rng.random(200_000) < p
    chosen = choose_operating_point(match, p, beta)
    grid = np.linspace(0.05, 0.95, 91)
    best = grid[np.argmax([fbeta_score(match, p >= threshold, beta=beta) for threshold in grid])]
    assert chosen == pytest.approx(best, abs=0.03)


def test_the_operating_point_suits_the_ensemble(incumbent: Path) -> None:
    """It is chosen on single members, and costs the ensemble next to nothing on pairs that none of them has seen.

    F-beta is that expected over the labels, so that the fresh pairs add no chance of their own.
    """
    encoders = production.read_encoders(incumbent)
    categories = encoders.encoder.categories_
    pairs, fresh = generate(4_800, seed=11), generate(30_000, seed=12)
    inputs, unseen = (features.encode(each, encoders.encoder, encoders.scaler) for each in (pairs, fresh))
    trained, _ = train(inputs, pairs["match"].to_numpy(np.float32), categories, Recipe())
    served = trained.predict(unseen, batch_size=8192, verbose=0).ravel()
    order = np.argsort(-served, kind="stable")
    true = true_probability(fresh)
    beta2 = RECALL_WEIGHT**2
    fbeta = (1 + beta2) * np.cumsum(true[order]) / (beta2 * true.sum() + np.arange(1, len(true) + 1))
    assert fbeta.max() - fbeta[np.count_nonzero(served >= 0.5) - 1] < 0.004


def test_an_unknown_algorithm_is_refused(training: tuple[np.ndarray, np.ndarray, list[np.ndarray]]) -> None:
    with pytest.raises(InputError, match="--algorithm forest"):
        train(*training, replace(QUICK, algorithm="forest"))


def test_a_file_keras_cannot_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model.h5 is not a readable HDF5 file"):
        predict(tmp_path / "model.h5", np.zeros((1, 47), np.float32))


def test_each_row_is_predicted_by_a_member_that_has_not_seen_it(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]],
) -> None:
    """Labels by chance can be learned by heart and not be predicted: who has seen a row is found out."""
    inputs, _, categories = training
    match = np.random.default_rng(0).integers(0, 2, 200).astype(np.float32)
    trained, record = train(inputs[:200], match, categories, Recipe(epochs=150))
    learned = (trained.predict(inputs[:200], verbose=0).ravel() >= 0.5) == match
    assert learned.mean() > 0.7  # by the members that have seen it
    # of guesses, the highest F-beta is that of always saying yes
    rate = match.mean()
    beta2 = RECALL_WEIGHT**2
    guessed = rate / (beta2 * rate + 1)
    assert record.operating_point == pytest.approx(guessed, abs=0.015)
    assert record.history["val_loss"][-1] > 0.69 > record.history["loss"][-1]


def test_the_curve_is_that_of_the_weights_that_are_kept(
    training: tuple[np.ndarray, np.ndarray, list[np.ndarray]],
) -> None:
    import keras
    from sklearn.model_selection import StratifiedKFold

    inputs, match, categories = training
    recipe = Recipe(epochs=3, seed=3)
    trained, record = train(inputs, match, categories, recipe)
    members = keras.Model(trained.input, trained.get_layer("member_logits").output)
    logits = members.predict(inputs, verbose=0)[:, :, 0]
    folds = StratifiedKFold(MEMBERS, shuffle=True, random_state=recipe.seed).split(inputs, match)
    losses = np.empty(len(match))
    for member, (_, held_out) in enumerate(folds):
        z = logits[held_out, member]
        losses[held_out] = np.logaddexp(0, z) - match[held_out] * z
    decay = sum(float(loss) for loss in members.losses)
    assert record.history["val_loss"][-1] == pytest.approx(losses.mean() + decay, rel=1e-3)


def test_few_rows_are_no_reason_to_do_worse_than_the_old_recipe(incumbent: Path) -> None:
    from sklearn.metrics import average_precision_score

    encoders = production.read_encoders(incumbent)
    categories = encoders.encoder.categories_
    pairs, fresh = generate(800, seed=11), generate(10_000, seed=12)
    inputs, unseen = (features.encode(each, encoders.encoder, encoders.scaler) for each in (pairs, fresh))
    found = {}
    for algorithm in ALGORITHMS:
        trained, _ = train(inputs, pairs["match"].to_numpy(np.float32), categories, Recipe(algorithm))
        found[algorithm] = average_precision_score(fresh["match"], trained.predict(unseen, verbose=0).ravel())
    assert found["interactions"] > found["dense"] + 0.02, found


def average_precision(incumbent: Path, rows: int, recipe: Recipe) -> float:
    """On 10,000 fresh pairs, of a model trained on so many."""
    from sklearn.metrics import average_precision_score

    encoders = production.read_encoders(incumbent)
    categories = encoders.encoder.categories_
    pairs, fresh = generate(rows, seed=17), generate(10_000, seed=12)
    inputs, unseen = (features.encode(each, encoders.encoder, encoders.scaler) for each in (pairs, fresh))
    trained, _ = train(inputs, pairs["match"].to_numpy(np.float32), categories, recipe)
    return float(average_precision_score(fresh["match"], trained.predict(unseen, verbose=0).ravel()))


@pytest.mark.parametrize("rows", [40, 300])
def test_a_small_training_is_as_good_as_without_averaging(
    incumbent: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """40 rows are what the smallest dataset that is accepted leaves to train on."""
    found = average_precision(incumbent, rows, Recipe())
    monkeypatch.setattr("matchmaking.model.train.MOMENTUM", 0.0)
    assert found >= average_precision(incumbent, rows, Recipe())


def test_a_short_training_is_as_good_as_the_old_recipe_and_without_averaging(
    incumbent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = average_precision(incumbent, 9_600, Recipe(epochs=3))
    assert found > average_precision(incumbent, 9_600, Recipe("dense", epochs=3)) + 0.02
    monkeypatch.setattr("matchmaking.model.train.MOMENTUM", 0.0)
    # two seeds differ by .004
    assert found > average_precision(incumbent, 9_600, Recipe(epochs=3)) - 0.002


def test_the_weights_of_the_beginning_are_not_averaged_in() -> None:
    assert momentum(570) == MOMENTUM == 0.99
    for steps in (1, 5, 30, 100, 499, 10_000):
        # what is left of the first step's weights
        assert momentum(steps) ** steps < 0.01
