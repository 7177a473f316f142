"""Inputs that were handled wrongly once, beside the real data. Skipped, and said so, where they aren't at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn

from matchmaking.base.errors import InputError
from matchmaking.data.read import read_pairs
from matchmaking.model import production

FAULTS = Path(os.environ.get("FAULTS_DIR", Path(__file__).parents[3] / "shared" / "faults"))

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def faults() -> Path:
    if not (FAULTS / "README.md").exists():
        pytest.skip(f"the faulty inputs aren't at {FAULTS} (FAULTS_DIR says where they are)")
    return FAULTS


@pytest.fixture
def bundle(real: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "production"
    folder.mkdir()
    for name in production.FILES:
        shutil.copyfile(real / name, folder / name)
    return folder


def test_a_nul_byte_far_into_a_file_is_refused(faults: Path) -> None:
    with pytest.raises(InputError, match=r"nul_byte_line_902\.csv: line 902 has a NUL byte"):
        read_pairs(faults / "nul_byte_line_902.csv")


def test_two_blank_columns_are_ignored(faults: Path) -> None:
    pairs, extra = read_pairs(faults / "two_blank_columns.csv")
    assert (len(pairs), extra) == (2_000, ["(unnamed)", "(unnamed)"])


def test_one_current_row_is_too_few(mlops: Mlops, real: Path, faults: Path, tmp_path: Path) -> None:
    data = ("--data", real / "matchmaking_dataset.csv", "--current", faults / "current_of_one_row.csv")
    done = mlops("run", "monitor", *data, "--production", real, "--work-dir", tmp_path)
    assert done.returncode == 2, done.stdout
    assert "1 current against 12,000 reference rows are too few to tell" in " ".join(done.stderr.split())


def test_keras_2_notation_is_served(real: Path, faults: Path, bundle: Path) -> None:
    from matchmaking.model.score import score

    shutil.copyfile(faults / "keras2_notation.h5", bundle / production.MODEL)
    production.check_bundle(bundle)
    assert "saved by Keras 2.15.0" in production.version_notes(bundle)[0]
    pairs = read_pairs(real / "matchmaking_dataset.csv")[0].head(500)
    np.testing.assert_allclose(score(pairs, bundle), score(pairs, real), atol=1e-6)


def test_a_compressed_encoder_is_read(real: Path, faults: Path, bundle: Path) -> None:
    shutil.copyfile(faults / "encoder_joblib_compressed.pkl", bundle / production.ENCODER)
    assert production.check_bundle(bundle).categories == production.check_bundle(real).categories


def test_an_older_encoder_ends_at_ingest(mlops: Mlops, real: Path, faults: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(faults / "encoder_older_sklearn.pkl", bundle / production.ENCODER)
    data = real / "matchmaking_dataset.csv"
    done = mlops("run", "evaluate", "--data", data, "--production", bundle, "--work-dir", tmp_path / "work")
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert "failed in step ingest" in said and "encoder.pkl can't be used by" in said
    # the stand-in says that it is of the version that is installed: both are named all the same
    assert said.count(sklearn.__version__) >= 2


def test_cities_in_another_spelling_are_refused_with_the_right_one(mlops: Mlops, real: Path, tmp_path: Path) -> None:
    pairs, _ = read_pairs(real / "matchmaking_dataset.csv")
    data = tmp_path / "upper.csv"
    pairs.assign(city=pairs["city"].str.upper()).to_csv(data, index=False)
    done = mlops("run", "retrain", "--data", data, "--production", real, "--work-dir", tmp_path / "work")
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert "column 'city': 12,000 of 12,000 rows (100.0%)" in said and "(Delhi?)" in said
