"""The model file: what could run code, isn't whole in itself or couldn't be served is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from matchmaking.base.errors import InputError
from matchmaking.model import keras_file, production


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


@pytest.mark.parametrize("part", ["model_config", "model_weights"])
def test_half_a_model_is_refused(bundle: Path, part: str) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        del (file.attrs if part == "model_config" else file)[part]
    with pytest.raises(InputError, match="without a Keras model"):
        production.check_bundle(bundle)


def test_a_damaged_model_file_is_refused_in_bounded_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in the middle keep the HDF5 library busy for ever."""
    monkeypatch.setattr(keras_file, "INSPECT_SECONDS", 5)
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
        (_wrapped_lambda, r"custom layers or functions \(Lambda\)"),
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
        {"class_name": "Dense", "module": "keras.src.layers.core.dense"},
        {"class_name": "Dense", "module": "os"},
        {"class_name": "TextVectorization"},
        {"class_name": "deserialize"},
    ],
)
def test_custom_layers_are_refused(bundle: Path, layer: dict[str, Any]) -> None:
    edit_config(bundle / production.MODEL, lambda layers: layers[1].update(layer))
    with pytest.raises(InputError, match="custom layers"):
        production.check_bundle(bundle)


LAMBDA = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}}}


@pytest.mark.parametrize(
    "hidden",
    [
        [{"class_name": "LSTMCell", "config": {}}, LAMBDA],
        {"class_name": "Bidirectional", "config": {"layer": LAMBDA}},
        {"deep": [{"down": {"in": [[LAMBDA]]}}]},
        {**LAMBDA, "module": "keras.src.layers.core.lambda_layer"},
        {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
        {"class_name": "function", "module": "keras.utils", "config": "get_file", "registered_name": "get_file"},
        {"class_name": "function", "module": "builtins", "config": "eval", "registered_name": "eval"},
        {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"class_name": "TFSMLayer", "config": {"filepath": "/tmp/model"}},
        {"class_name": "TypeSpec", "type_spec": "tf.TensorSpec", "serialized": []},
        {"class_name": "Orthogonal", "module": "keras.src.utils.file_utils", "config": {}},
        {"module": "os", "config": "system", "registered_name": "system"},
    ],
)
@pytest.mark.parametrize("where", ["model_config", "training_config"])
def test_code_is_found_wherever_it_hides(bundle: Path, hidden: Any, where: str) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        config = json.loads(file.attrs.get(where, "{}"))
        if where == "model_config":
            config["config"]["layers"][1]["config"]["cell"] = hidden
        else:
            config["loss"] = hidden
        file.attrs[where] = json.dumps(config)
    with pytest.raises(InputError, match="custom layers or functions"):
        production.check_bundle(bundle)


def test_what_keras_itself_writes_is_accepted(tmp_path: Path) -> None:
    """Models in models, cells in a list, wrappers, schedules, losses and metrics: none of them is custom."""
    import keras
    from keras import layers

    given = keras.Input((47,), name="inputs")
    inner = keras.Input((47,))
    functional = keras.Model(inner, layers.Dense(3)(inner))
    sequential = keras.Sequential([keras.Input((47,)), layers.Dense(4, activation="gelu")])
    steps = layers.Reshape((47, 1))(given)
    parts = [
        functional(given),
        sequential(given),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])(steps),
        layers.Bidirectional(layers.LSTM(2))(steps),
    ]
    out = layers.Dense(1, activation="sigmoid", kernel_regularizer="l2")(layers.Concatenate()(parts))
    model = keras.Model(given, out)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    model.compile(
        keras.optimizers.Adam(rate), keras.losses.BinaryFocalCrossentropy(), [keras.metrics.AUC(), "accuracy"]
    )
    model.save(tmp_path / "model.h5")
    found = keras_file.check_model_file(tmp_path / "model.h5")
    assert found["keras_version"] == keras.__version__
    assert {"LSTMCell", "GRUCell", "Bidirectional", "LSTM"} <= set(found["layers"]) | {"LSTMCell", "GRUCell"}


def first_weight(file: h5py.File) -> h5py.Dataset:
    found: list[h5py.Dataset] = []
    file["model_weights"].visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found[0]


def _external_link(file: h5py.File, other: Path) -> None:
    name = first_weight(file).name
    with h5py.File(other, "w") as target:
        file.copy(name, target, name="w")
    del file[name]
    file[name] = h5py.ExternalLink(str(other), "/w")


def _external_group(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as target:
        file.copy("model_weights", target)
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink(str(other), "/model_weights")


def _soft_link(file: h5py.File, other: Path) -> None:
    name = first_weight(file).name
    file.move(name, "/elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def _soft_link_out(file: h5py.File, other: Path) -> None:
    name = first_weight(file).name
    with h5py.File(other, "w") as target:
        file.copy(name, target, name="w")
    file["door"] = h5py.ExternalLink(str(other), "/")
    del file[name]
    file[name] = h5py.SoftLink("/door/w")


def _external_storage(file: h5py.File, other: Path) -> None:
    weight = first_weight(file)
    name, values = weight.name, weight[()]
    values.tofile(other)
    del file[name]
    file.create_dataset(name, values.shape, values.dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File, other: Path) -> None:
    weight = first_weight(file)
    name, shape, dtype = weight.name, weight.shape, weight.dtype
    with h5py.File(other, "w") as target:
        target["w"] = weight[()]
    del file[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(other), "w", shape)
    file.create_virtual_dataset(name, layout)


def _unwritten(file: h5py.File, other: Path) -> None:
    """A terabyte that takes no room in the file, and all of a machine's memory when it is loaded."""
    name = first_weight(file).name
    del file[name]
    file.create_dataset(name, (1_000_000, 250_000), "f4", chunks=(1_000, 1_000), compression="gzip")


def _not_there(file: h5py.File, other: Path) -> None:
    weight = first_weight(file)
    name, shape = weight.name, weight.shape
    del file[name]
    file.create_dataset(name, shape, "f4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_external_link, "a link to another file at /model_weights/"),
        (_external_group, "a link to another file at /model_weights;"),
        (_soft_link, "a soft link at /model_weights/"),
        (_soft_link_out, "a link to another file at /door"),
        (_external_storage, "values stored in another file at /model_weights/"),
        (_virtual, "a virtual dataset at /model_weights/"),
        (_unwritten, "weights of 1,000 GB"),
        (_not_there, "values that are not there at /model_weights/"),
    ],
)
def test_weights_that_are_not_in_the_file_are_refused(bundle: Path, tmp_path: Path, change: Any, words: str) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        change(file, tmp_path / "other")
    with pytest.raises(InputError, match="isn't whole in itself") as refused:
        production.check_bundle(bundle)
    assert words in str(refused.value)


def test_two_names_of_the_same_weights_and_a_circle_are_looked_at_once(bundle: Path) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        file["again"] = first_weight(file)
        file["model_weights/circle"] = file["/"]
    production.check_bundle(bundle)


def test_what_is_loaded_is_what_was_looked_at(bundle: Path) -> None:
    """The file may be another by the time it is loaded: the copy isn't."""
    path = bundle / production.MODEL
    before = path.read_bytes()
    with keras_file.checked_copy(path) as alone:
        path.write_bytes(b"another")
        assert alone.read_bytes() == before and alone.parent.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match=f"^{path} is not a readable HDF5"), keras_file.checked_copy(path):
        pass


def test_the_same_bytes_are_looked_at_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file is called; others in its place are looked at anew, and so is what couldn't be read."""
    probed: list[Path] = []
    probe = keras_file._probe
    monkeypatch.setattr(keras_file, "_probe", lambda path: (probed.append(path), probe(path))[1])
    monkeypatch.setattr(keras_file, "_inspected", {})
    path = bundle / production.MODEL
    (other := tmp_path / "other.h5").write_bytes(path.read_bytes())
    assert keras_file.check_model_file(path) == keras_file.check_model_file(other)
    assert len(probed) == 1
    edit_config(path, _no_sigmoid)
    for _ in range(2):
        with pytest.raises(InputError, match="reads one probability"):
            keras_file.check_model_file(path)
    assert len(probed) == 2
    path.write_bytes(b"not HDF5")
    for _ in range(2):
        with pytest.raises(InputError, match="not a readable HDF5 file"):
            keras_file.check_model_file(path)
    assert len(probed) == 4


def test_weights_that_are_no_numbers_are_refused(bundle: Path) -> None:
    with h5py.File(bundle / production.MODEL, "r+") as file:
        first_weight(file)[0] = np.nan
    with pytest.raises(InputError, match="NaN or infinity among its weights"):
        production.check_bundle(bundle)


def test_the_notation_of_keras_2_is_accepted(bundle: Path) -> None:
    """Initializers and regularizers without a module, and the input's shape under its old name."""

    def older(value: Any) -> Any:
        if isinstance(value, list):
            return [older(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if value.get("class_name") == "DTypePolicy":
            return "float32"
        names = {"batch_shape": "batch_input_shape"}
        dropped = ("module", "registered_name")
        return {names.get(key, key): older(inner) for key, inner in value.items() if key not in dropped}

    with h5py.File(bundle / production.MODEL, "r+") as file:
        file.attrs["model_config"] = json.dumps(older(json.loads(file.attrs["model_config"])))
        file.attrs["keras_version"] = "2.15.0"
    production.check_bundle(bundle)
    (note,) = production.version_notes(bundle)
    assert note.startswith("lawyer_match_model.h5 was saved by Keras 2.15.0, and is loaded by 3.")
