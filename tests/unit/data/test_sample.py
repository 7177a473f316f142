"""The sample generator: repeatable, in the schema, and with the ceiling it claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_md5
from matchmaking.data.read import read_pairs
from matchmaking.data.sample import DRIFTS, generate, generate_file, true_probability
from matchmaking.evidence.metrics import expected_calibration_error


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "a.csv.gz", "b.csv.gz"):
        generate_file(tmp_path / name, 500, seed=3)
    assert file_md5(tmp_path / "a.csv") == file_md5(tmp_path / "b.csv")
    assert file_md5(tmp_path / "a.csv.gz") == file_md5(tmp_path / "b.csv.gz")
    generate_file(tmp_path / "c.csv", 500, seed=4)
    assert file_md5(tmp_path / "a.csv") != file_md5(tmp_path / "c.csv")


@pytest.mark.parametrize("drift", DRIFTS)
def test_every_variant_is_a_valid_dataset(tmp_path: Path, drift: str) -> None:
    generate_file(tmp_path / "x.csv", 2_000, seed=0, drift=drift)
    pairs, extra = read_pairs(tmp_path / "x.csv")
    assert extra == []
    plain = generate(2_000, seed=0)
    changed = {column for column in pairs if not pairs[column].equals(plain[column])}
    assert changed - {"match"} == {"prices": {"consultation_fee"}, "new-city": {"city"}}.get(drift, set())


def test_labels_are_drawn_from_the_true_probability() -> None:
    pairs = generate(300_000, seed=0)
    p = true_probability(pairs)
    match = pairs["match"].to_numpy()
    assert 0.10 < match.mean() < 0.13
    # a calibration error of nothing but sampling noise
    assert expected_calibration_error(match, p) < 0.002
    # the difference to the labels is noise: 4 standard errors
    assert abs(match.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p)


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 row"):
        generate(0, seed=0)
    with pytest.raises(InputError, match="--drift storm"):
        generate(10, seed=0, drift="storm")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        generate_file(tmp_path / "file" / "x.csv", 10, seed=0)
