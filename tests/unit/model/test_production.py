"""Production's files: hostile and damaged pickles are refused, and nothing of them runs."""

from __future__ import annotations

import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from matchmaking.base.errors import InputError
from matchmaking.data.schema import CATEGORICAL
from matchmaking.model import production


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def test_a_good_bundle_is_read(bundle: Path) -> None:
    encoders = production.check_bundle(bundle)
    assert encoders.categories["specialization"] == ["Civil", "Corporate", "Criminal", "Family", "Tax"]
    plain = joblib.load(bundle / production.SCALER)
    np.testing.assert_array_equal(encoders.scaler.mean_, plain.mean_)


def _hide_in_object_array(value: object) -> object:
    """Joblib writes an array of objects as a pickle inside the pickle, read by an unpickler of its own."""
    encoder = OneHotEncoder()
    encoder.categories_ = [np.array([value, "x"], dtype=object)]
    return encoder


@pytest.mark.parametrize("hide", [lambda value: value, lambda value: [value], _hide_in_object_array])
@pytest.mark.parametrize("dump", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_pickle_never_runs(bundle: Path, tmp_path: Path, hide: Any, dump: Any) -> None:
    marker = tmp_path / "ran"
    dump(hide(Hostile(marker)), bundle / production.ENCODER)
    with pytest.raises(InputError, match=r"encoder.pkl refers to (posix|nt).system.*not run"):
        production.check_bundle(bundle)
    assert not marker.exists()
    # the same file would have run under a plain load: the test can fail
    joblib.load(bundle / production.ENCODER)
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable pickle"),
        (b"garbage", "not a readable pickle"),
        (pickle.dumps(MinMaxScaler()), "MinMaxScaler"),
        (pickle.dumps({"a": 1}), "holds a dict, not a fitted OneHotEncoder"),
        (pickle.dumps(OneHotEncoder()), "not a fitted"),
        (pickle.dumps(OneHotEncoder().fit([["a"]])), "encodes other columns"),
    ],
)
def test_an_encoder_that_is_none_is_refused(bundle: Path, content: bytes, words: str) -> None:
    (bundle / production.ENCODER).write_bytes(content)
    with pytest.raises(InputError, match=words):
        production.check_bundle(bundle)


@pytest.mark.parametrize(
    ("scaler", "words"),
    [
        (OneHotEncoder(), "holds a OneHotEncoder, not a fitted StandardScaler"),
        (StandardScaler(), "holds a StandardScaler, not a fitted StandardScaler"),
        (StandardScaler().fit([[1.0]]), "scales other columns"),
    ],
)
def test_a_scaler_that_is_none_is_refused(bundle: Path, scaler: Any, words: str) -> None:
    (bundle / production.SCALER).write_bytes(pickle.dumps(scaler))
    with pytest.raises(InputError, match=f"scaler.pkl {words}"):
        production.check_bundle(bundle)


def test_an_encoder_of_fewer_categories_is_refused(bundle: Path) -> None:
    encoder = production.check_bundle(bundle).encoder
    rows = pd.DataFrame({name: [known[0]] for name, known in zip(CATEGORICAL, encoder.categories_, strict=True)})
    (bundle / production.ENCODER).write_bytes(pickle.dumps(OneHotEncoder().fit(rows)))
    with pytest.raises(InputError, match=r"encoder.pkl gives 19 model inputs.*the service needs 47"):
        production.check_bundle(bundle)


def test_messages_name_the_source_not_the_copy(bundle: Path) -> None:
    (bundle / production.SCALER).write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"^there/scaler.pkl is not"):
        production.check_bundle(bundle, source="there/")


def test_a_scaler_that_gives_nan_is_refused(bundle: Path) -> None:
    scaler = joblib.load(bundle / production.SCALER)
    scaler.scale_[3] = np.nan
    joblib.dump(scaler, bundle / production.SCALER)
    with pytest.raises(InputError, match=r"scaler\.pkl makes NaN or infinity"):
        production.check_bundle(bundle)


@pytest.mark.parametrize("packed", [3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_a_packed_pickle_is_read(bundle: Path, tmp_path: Path, packed: Any) -> None:
    marker = tmp_path / "ran"
    plain = joblib.load(bundle / production.ENCODER)
    joblib.dump(plain, bundle / production.ENCODER, compress=packed)
    read = production.check_bundle(bundle).categories
    assert read == {c: list(known) for c, known in zip(plain.feature_names_in_, plain.categories_, strict=True)}
    joblib.dump(Hostile(marker), bundle / production.ENCODER, compress=packed)
    with pytest.raises(InputError, match="not run"):
        production.check_bundle(bundle)
    assert not marker.exists()


def test_a_packed_pickle_that_grows_without_end_is_refused(bundle: Path) -> None:
    (bundle / production.ENCODER).write_bytes(zlib.compress(bytes(100 << 20)))
    with pytest.raises(InputError, match="more than 64 MB"):
        production.check_bundle(bundle)


def older_sklearn(path: Path, monkeypatch: pytest.MonkeyPatch, drop: str = "") -> None:
    """Makes a pickle one of scikit-learn 1.0.2, without an attribute that this version needs."""
    fitted = joblib.load(path)
    fitted.__dict__.pop(drop, None)
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.0.2")
        joblib.dump(fitted, path)


def test_an_encoder_of_an_older_scikit_learn(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older_sklearn(bundle / production.ENCODER, monkeypatch)
    (note,) = production.version_notes(bundle)
    assert note == f"encoder.pkl was written by scikit-learn 1.0.2, and is read by {sklearn.__version__}"
    older_sklearn(bundle / production.ENCODER, monkeypatch, drop="_infrequent_enabled")
    words = rf"encoder\.pkl can't be used by scikit-learn {sklearn.__version__} .*it says that 1\.0\.2 wrote it"
    with pytest.raises(InputError, match=words):
        production.check_bundle(bundle)
