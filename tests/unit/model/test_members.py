"""What the networks are told of a pair beside its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matchmaking.data.sample import COVERED_BY, generate
from matchmaking.model import features, keras_file, production
from matchmaking.model.members import BINS, NEAREST, _bins, _same_name, member_logits, thresholds
from matchmaking.model.recipe import Recipe, completed
from matchmaking.model.train import train


def test_thresholds_are_the_octiles_each_once() -> None:
    steady = np.arange(8_001) / 8_000
    numbers = np.stack([steady, np.repeat([0.0, 1.0], [7_000, 1_001]), np.full(8_001, 0.25)], axis=1)
    found = thresholds(numbers.astype(np.float32))
    np.testing.assert_allclose(found[0], np.linspace(0, 1, BINS + 1), atol=NEAREST)
    assert [each.tolist() for each in found[1:]] == [[0.0, 1.0], [0.25]]


def test_of_many_rows_thresholds_are_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.model.members.QUANTILE_ROWS", 100)
    numbers = np.random.default_rng(0).permutation(np.linspace(0, 1, 1_001))[:, None]
    numbers[1::2] = 9.0
    # every eleventh row is looked at, so odd ones too
    assert thresholds(numbers)[0][-1] == 9.0
    monkeypatch.setattr("matchmaking.model.members.QUANTILE_ROWS", 501)
    assert thresholds(numbers)[0][-1] <= 1.0


def test_a_bin_says_how_far_a_number_has_come() -> None:
    import keras

    two = keras.Input((2,))
    model = keras.Model(two, _bins(two, [np.array([-1.0, 0.0, 2.0]), np.array([5.0])]))
    found = model.predict(np.array([[-9, 0], [-0.5, 0], [1, 0], [9, 0]], np.float32), verbose=0)
    np.testing.assert_allclose(found, [[0, 0], [0.5, 0], [1, 0.5], [1, 1]], atol=1e-6)


def test_names_are_compared_not_places() -> None:
    import keras

    names, others = ["Delhi", "Mumbai", "Pune"], ["Agra", "Pune", "Delhi"]
    one, other = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([one, other], _same_name(one, other, names, others))
    eye = np.eye(3, dtype=np.float32)
    found = model.predict([eye.repeat(3, axis=0), np.tile(eye, (3, 1))], verbose=0).reshape(3, 3)
    np.testing.assert_array_equal(found, [[name == other for other in others] for name in names])
    # a category that isn't known
    assert model.predict([eye[:1], np.zeros((1, 3), np.float32)], verbose=0) == 0


@pytest.mark.parametrize("constant", [False, True])
def test_the_networks_come_back_from_a_file_as_they_were(incumbent: Path, tmp_path: Path, constant: bool) -> None:
    import keras

    encoders = production.read_encoders(incumbent)
    inputs = features.encode(generate(200, seed=5, drift="new-city"), encoders.encoder, encoders.scaler)
    if constant:
        inputs[:, -len(features.NUMBERS) :] = 0.5
    edges = thresholds(inputs[:, -len(features.NUMBERS) :])
    members = member_logits(encoders.encoder.categories_, edges, completed(Recipe(), 200))
    mean = keras.layers.GlobalAveragePooling1D()(members.output)
    model = keras.Model(members.input, keras.layers.Dense(1, activation="sigmoid")(mean))
    model.save(tmp_path / "model.h5", include_optimizer=False)
    keras_file.check_model_file(tmp_path / "model.h5")
    again = keras.models.load_model(tmp_path / "model.h5", compile=False, safe_mode=True)
    found = model.predict(inputs, verbose=0)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(again.predict(inputs, verbose=0), found)


def test_a_step_in_a_ratio_is_found(incumbent: Path) -> None:
    """Of pairs that fit and are of one city, those match whose budget is at least .7 of the fee, as in real ones."""
    from sklearn.metrics import log_loss

    encoders = production.read_encoders(incumbent)

    def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = generate(rows, seed)
        rng = np.random.default_rng(seed)
        # more that fit than there are by chance, so that few rows will do
        pairs["specialization"] = np.where(
            rng.random(rows) < 0.7, pairs["case_type"].map(COVERED_BY), pairs["specialization"]
        )
        pairs["city"] = np.where(rng.random(rows) < 0.7, pairs["location"], pairs["city"])
        fits = pairs["case_type"].map(COVERED_BY) == pairs["specialization"]
        within = features.add_ratios(pairs)["budget_fee_ratio"] >= 0.7
        match = fits & (pairs["location"] == pairs["city"]) & within
        return features.encode(pairs, encoders.encoder, encoders.scaler), match.to_numpy(np.float32)

    inputs, match = drawn(4_800, 11)
    unseen, labels = drawn(10_000, 12)
    trained, _ = train(inputs, match, encoders.encoder.categories_, Recipe())
    loss = log_loss(labels, trained.predict(unseen, batch_size=8192, verbose=0).ravel().astype(float))
    # .010; without the octiles .021
    assert loss < 0.015
