"""Production's files: hostile and damaged ones are refused, and nothing of them runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

from matchmaking import production
from matchmaking.errors import InputError


@pytest.fixture
def bundle(incumbent: Path, tmp_path: Path) -> Path:
    shutil.copytree(incumbent, tmp_path / "bundle")
    return tmp_path / "bundle"


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


def edit_config(path: Path, change: Any) -> None:
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)


def test_a_model_file_that_is_none_is_refused(bundle: Path) -> None:
    (bundle / production.MODEL).write_bytes(b"not HDF5")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        production.check_bundle(bundle)
    with h5py.File(bundle / production.MODEL, "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="without a Keras model"):
        production.check_bundle(bundle)


def test_a_damaged_model_file_is_refused_in_bounded_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in the middle keep the HDF5 library busy for ever."""
    monkeypatch.setattr(production, "INSPECT_SECONDS", 5)
    path = bundle / production.MODEL
    content = bytearray(path.read_bytes())
    content[2_000:40_000] = bytes(38_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"lawyer_match_model\.h5"):
        production.check_bundle(bundle)


def _no_sigmoid(layers: list[dict[str, Any]]) -> None:
    layers[-1]["config"]["activation"] = "linear"


def _wrapped_lambda(layers: list[dict[str, Any]]) -> None:
    inner = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "inner"}}
    layers[1]["class_name"] = "TimeDistributed"
    layers[1]["config"]["layer"] = inner


def _keras_2(layers: list[dict[str, Any]]) -> None:
    layers[0]["config"]["batch_input_shape"] = [None, 40]
    del layers[0]["config"]["batch_shape"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_sigmoid, "by linear; the service reads one probability"),
        (_wrapped_lambda, r"custom layers \(Lambda\)"),
        (_keras_2, "takes 40 inputs"),
        (lambda layers: layers[1]["config"].update(name="elsewhere"), "no weights for elsewhere"),
        (lambda layers: layers.clear(), "none of Keras's"),
        (lambda layers: layers[1].pop("config"), "none of Keras's"),
    ],
)
def test_a_model_that_could_not_be_served_is_refused(bundle: Path, change: Any, words: str) -> None:
    edit_config(bundle / production.MODEL, change)
    with pytest.raises(InputError, match=words):
        production.check_bundle(bundle)


def test_a_description_that_is_no_json_is_refused(bundle: Path) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        file.attrs["model_config"] = "{not json"
    with pytest.raises(InputError, match="none of Keras's"):
        production.check_bundle(bundle)


def test_another_input_width_is_refused(bundle: Path) -> None:
    def narrow(layers: list[dict[str, Any]]) -> None:
        layers[0]["config"]["batch_shape"] = [None, 46]

    edit_config(bundle / production.MODEL, narrow)
    with pytest.raises(InputError, match="takes 46 inputs; the service gives 47"):
        production.check_bundle(bundle)


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda"},
        {"class_name": "MyLayer", "module": "their.code", "registered_name": "their>MyLayer"},
        {"class_name": "their>MyLayer"},
        {"class_name": "NoSuchLayer"},
    ],
)
def test_custom_layers_are_refused(bundle: Path, layer: dict[str, Any]) -> None:
    edit_config(bundle / production.MODEL, lambda layers: layers[1].update(layer))
    with pytest.raises(InputError, match="custom layers"):
        production.check_bundle(bundle)


def test_messages_name_the_source_not_the_copy(bundle: Path) -> None:
    (bundle / production.SCALER).write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"^there/scaler.pkl is not"):
        production.check_bundle(bundle, source="there/")
