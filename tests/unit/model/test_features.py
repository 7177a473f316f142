"""The encoding, against a plain reading of production's recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.data.schema import CATEGORICAL
from matchmaking.model import features, production
from matchmaking.model.features import NUMBERS, encode


def test_encodes_row_by_row_as_written_down(incumbent: Path) -> None:
    pairs = generate(50, seed=0)
    encoders = production.read_encoders(incumbent)
    inputs = encode(pairs, encoders.encoder, encoders.scaler)
    assert inputs.shape == (50, 47)
    assert inputs.dtype == np.float32
    scale = dict(zip(NUMBERS, zip(encoders.scaler.mean_, encoders.scaler.scale_, strict=True), strict=True))
    for index, row in enumerate(pairs.itertuples()):
        hot = [float(getattr(row, column) == known) for column in CATEGORICAL for known in encoders.categories[column]]
        numbers = {name: float(getattr(row, name)) for name in NUMBERS[:8]}
        numbers["budget_fee_ratio"] = row.budget / (row.consultation_fee + 1)
        numbers["experience_success"] = row.experience * row.success_rate
        numbers["urgency_complexity"] = row.urgency_level * row.case_complexity_score
        numbers["rating_availability"] = row.rating * row.availability
        numbers["budget_per_urgency"] = row.budget / (row.urgency_level + 1)
        numbers["fee_rating_ratio"] = row.consultation_fee / (row.rating + 0.1)
        scaled = [(numbers[name] - scale[name][0]) / scale[name][1] for name in NUMBERS]
        np.testing.assert_allclose(inputs[index], [*hot, *scaled], atol=1e-5)


def test_the_service_stacks_what_a_first_production_s_encoders_give() -> None:
    pairs = generate(500, seed=0)
    encoder, scaler = features.fit_encoders(pairs)
    numbers = features.add_ratios(pairs)[list(NUMBERS)].astype(float)
    served = np.hstack([encoder.transform(pairs[list(CATEGORICAL)].astype(str)), scaler.transform(numbers)])
    np.testing.assert_allclose(encode(pairs, encoder, scaler), served, atol=1e-5)


def test_an_unseen_category_is_all_zeros(incumbent: Path) -> None:
    encoders = production.read_encoders(incumbent)
    inputs = encode(generate(3, seed=0).assign(city="Ahmedabad"), encoders.encoder, encoders.scaler)
    assert not inputs[:, 26:33].any()


def test_a_first_encoder_says_what_is_wrong_with_the_categories() -> None:
    pairs = generate(500, seed=0)
    features.fit_encoders(pairs)
    more = pairs.assign(city=pairs["city"].where(pairs.index > 2, "Ahmedabad").where(pairs.index != 5, "delhi"))
    with pytest.raises(InputError, match=r"'city' has 9 categories, 2 more than the service knows") as told:
        features.fit_encoders(more)
    assert "'Ahmedabad' 3 rows, 'delhi' 1 rows (Delhi?)" in str(told.value) and "more rows" not in str(told.value)
    with pytest.raises(InputError, match="'city' has 6 categories of 7; give rows that hold the others"):
        features.fit_encoders(pairs[pairs["city"] != "Pune"])
