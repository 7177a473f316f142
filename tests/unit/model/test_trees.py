"""Boosted trees: what they are told, and that their layers give what scikit-learn does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from matchmaking.data.sample import generate, true_probability
from matchmaking.data.schema import CATEGORICAL
from matchmaking.model import features, production, trees
from matchmaking.model.members import member_logits, thresholds
from matchmaking.model.recipe import Recipe, completed
from matchmaking.model.train import blend_weight, train

Training = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


@pytest.fixture(scope="module")
def training(incumbent: Path) -> Training:
    pairs = generate(3_000, seed=5)
    encoders = production.read_encoders(incumbent)
    inputs = features.encode(pairs, encoders.encoder, encoders.scaler)
    return inputs, pairs["match"].to_numpy(np.float32), encoders.encoder.categories_


def in_layers(grown: trees.Trees, inputs: np.ndarray, categories: Sequence[Sequence[str]]) -> np.ndarray:
    """What the trees give as layers behind the inputs of (untrained) members."""
    import keras

    members = member_logits(categories, thresholds(inputs[:, -14:]), completed(Recipe(), len(inputs)))
    model = keras.Model(members.input, trees.as_layers(grown, members))
    return model.predict(inputs, batch_size=8192, verbose=0).ravel()


@pytest.mark.parametrize("rows", [40, 300, 3_000])
def test_the_layers_give_what_the_trees_give(training: Training, rows: int) -> None:
    """Of 40 rows there is no split at all: twenty rows are the fewest of a leaf."""
    inputs, match, categories = training
    grown = trees.grow(inputs[:rows], match[:rows], categories, seed=0)
    assert sum(each[0].nodes["is_leaf"].size > 1 for each in grown.boosting._predictors) >= (30 if rows > 40 else 0)
    unknown = inputs.copy()
    unknown[::2, : len(categories[0])] = 0
    for given in (inputs, unknown):
        expected, found = grown.logits(given, categories), in_layers(grown, given, categories)
        # but for a value that is on a threshold, as float32 has it
        assert np.mean(np.abs(found - expected) < 1e-4) > 0.99
        assert np.abs(found - expected).mean() < 5e-3


def test_the_trees_know_what_matches(training: Training) -> None:
    inputs, match, categories = training
    grown = trees.grow(inputs[:2_000], match[:2_000], categories, seed=0)
    assert roc_auc_score(match[2_000:], grown.logits(inputs[2_000:], categories)) > 0.93


def test_what_the_trees_are_told(training: Training) -> None:
    inputs, match, categories = training
    blocks = dict(
        zip(CATEGORICAL, np.split(inputs[:, :33], np.cumsum([len(c) for c in categories])[:-1], 1), strict=True)
    )
    names = {field: np.array(categories[CATEGORICAL.index(field)])[blocks[field].argmax(1)] for field in CATEGORICAL}
    told = trees.seen(inputs, categories)
    assert told.shape == (3_000, 83)
    np.testing.assert_array_equal(told[:, :47], inputs)
    np.testing.assert_array_equal(told[:, 47], names["location"] == names["city"])
    np.testing.assert_array_equal(told[:, 48:].sum(axis=1), 1)
    columns = told @ trees._columns(told, match, categories)
    np.testing.assert_array_equal(columns[:, :14], inputs[:, 33:])
    # a category that matches more often has a higher rank, and those above the rate of all are above 0
    for place, field in enumerate(CATEGORICAL, start=15):
        rate = {name: match[names[field] == name].mean() for name in set(names[field])}
        rank = {name: float(columns[names[field] == name, place][0]) for name in rate}
        by_rate = sorted(rate, key=rate.__getitem__)
        assert by_rate == sorted(rank, key=rank.__getitem__)
        assert all((rank[name] > 0) == (rate[name] > match.mean()) for name in rate)


def test_an_unknown_category_is_taken_for_one_a_little_below_most(training: Training) -> None:
    inputs, match, categories = training
    unknown = inputs.copy()
    unknown[:, :33] = 0
    columns = trees.seen(unknown, categories) @ trees._columns(trees.seen(inputs, categories), match, categories)
    np.testing.assert_array_equal(columns[:, 14:], 0)


def test_the_weight_is_that_of_the_lowest_log_loss() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(-2, 2, 40_000)
    match = (rng.random(40_000) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    one, other = truth + rng.normal(0, 1, 40_000), truth + rng.normal(0, 1, 40_000)
    assert blend_weight(match, one, other) == pytest.approx(0.5, abs=0.05)
    assert blend_weight(match, truth, other) < 0.05
    assert blend_weight(match, one, truth) > 0.95


def test_what_a_row_is_judged_by_has_not_seen_it(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees that have seen a row are surer of it than of others; then the weight would be theirs alone."""
    inputs, _, categories = training
    match = np.random.default_rng(0).integers(0, 2, 600).astype(np.float32)
    monkeypatch.setattr(trees, "DEPTH", 6)
    given: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(
        "matchmaking.model.train.blend_weight", lambda label, _, by_trees: given.append((label, by_trees)) or 0.5
    )
    train(inputs[:600], match, categories, Recipe(epochs=1))
    label, by_trees = given.pop()
    np.testing.assert_array_equal(label, match)
    assert roc_auc_score(match, trees.grow(inputs[:600], match, categories, 0).logits(inputs[:600], categories)) > 0.9
    assert 0.4 < roc_auc_score(match, by_trees) < 0.6


def test_of_many_rows_some_grow_the_trees(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, match, categories = training
    monkeypatch.setattr(trees, "MOST_ROWS", 900)
    grown: list[int] = []
    grow = trees.grow
    monkeypatch.setattr(trees, "grow", lambda rows, *rest: grown.append(len(rows)) or grow(rows, *rest))
    _, record = train(inputs, match, categories, Recipe(epochs=2))
    assert grown[0] == 900 and sum(grown[1:]) == 900 * (len(grown) - 2)
    assert 0 <= record.tree_weight <= 1
    assert record.rows == record.drawn == 3_000


def test_a_candidate_is_nearer_to_the_truth_than_either_alone(incumbent: Path) -> None:
    """Log loss in expectation over the labels."""
    import keras

    encoders = production.read_encoders(incumbent)
    pairs, fresh = generate(4_800, seed=5), generate(20_000, seed=6)
    inputs, unseen = (features.encode(each, encoders.encoder, encoders.scaler) for each in (pairs, fresh))
    model, record = train(inputs, pairs["match"].to_numpy(np.float32), encoders.encoder.categories_, Recipe())
    assert 0.05 < record.tree_weight < 0.95
    true = true_probability(fresh)
    loss = {}
    for name in ("mean_of_members", "trees", "members_and_trees"):
        part = keras.Model(model.input, model.get_layer(name).output)
        logit = part.predict(unseen, batch_size=8192, verbose=0).ravel().astype(float)
        loss[name] = float(np.mean(np.logaddexp(0, logit) - true * logit))
    assert loss["members_and_trees"] < min(loss["mean_of_members"], loss["trees"]), loss
