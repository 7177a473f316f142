"""The three files that production serves: reading them safely, checking them, and telling whether they changed.

A bundle is a folder with `lawyer_match_model.h5`, `encoder.pkl` and `scaler.pkl`. The pickles come from outside, and
a pickle can run any code when it is read: they are read through an allow-list of the classes production's own files
hold, so that a hostile one is refused before anything of it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matchmaking.errors import InputError
from matchmaking.features import INPUT_WIDTH, NUMBERS
from matchmaking.schema import CATEGORICAL, file_sha256

MODEL = "lawyer_match_model.h5"
ENCODER = "encoder.pkl"
SCALER = "scaler.pkl"
FILES = (MODEL, ENCODER, SCALER)

ALLOWED_IN_PICKLES = frozenset(
    {
        ("sklearn.preprocessing._encoders", "OneHotEncoder"),
        ("sklearn.preprocessing._data", "StandardScaler"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy", "float64"),
        ("numpy", "int64"),
        # numpy 1 and numpy 2 write different module names for the same functions
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
    }
)
# built-in Keras layers that carry code of their own (a marshalled function, another framework's module)
CODE_LAYERS = frozenset({"Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"})


@dataclass(frozen=True)
class Encoders:
    """The fitted OneHotEncoder over `CATEGORICAL` and the fitted StandardScaler over `NUMBERS`."""

    encoder: Any
    scaler: Any

    @property
    def categories(self) -> dict[str, list[str]]:
        """The categories the encoder knows, by column."""
        return {
            column: [str(value) for value in known]
            for column, known in zip(CATEGORICAL, self.encoder.categories_, strict=True)
        }


def present(folder: Path) -> bool:
    """Whether a run's copy of production holds a model; it is empty where there is none."""
    return (folder / MODEL).is_file()


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each production file in a folder, by file name; absent files are left out."""
    return {name: file_sha256(folder / name) for name in FILES if (folder / name).is_file()}


def check_bundle(folder: Path, source: str | None = None) -> Encoders:
    """Reads the encoder and the scaler of a bundle and inspects its model file, without TensorFlow.

    Args:
        folder: the bundle.
        source: what to call the folder in messages, where it is a copy.

    Raises:
        InputError: one of the files is not what the service would need; the message names the file.
    """
    try:
        encoders = read_encoders(folder)
        check_model_file(folder / MODEL)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), (source or str(folder)).rstrip("/"))) from error
    return encoders


def read_encoders(folder: Path) -> Encoders:
    """Reads `encoder.pkl` and `scaler.pkl` through the allow-list.

    Raises:
        InputError: a file is not a pickle of allowed classes, or does not hold the right kind of fitted object.
    """
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encoder = read_pickle(folder / ENCODER)
    if not isinstance(encoder, OneHotEncoder) or not hasattr(encoder, "categories_"):
        raise InputError(f"{folder / ENCODER} holds {_kind(encoder)}, not a fitted OneHotEncoder")
    if list(getattr(encoder, "feature_names_in_", [])) != list(CATEGORICAL):
        raise InputError(f"{folder / ENCODER} encodes other columns than {', '.join(CATEGORICAL)}")
    scaler = read_pickle(folder / SCALER)
    if not isinstance(scaler, StandardScaler) or not hasattr(scaler, "scale_"):
        raise InputError(f"{folder / SCALER} holds {_kind(scaler)}, not a fitted StandardScaler")
    if list(getattr(scaler, "feature_names_in_", [])) != list(NUMBERS):
        raise InputError(f"{folder / SCALER} scales other columns than {', '.join(NUMBERS)}")
    width = sum(len(known) for known in encoder.categories_) + len(NUMBERS)
    if width != INPUT_WIDTH:
        raise InputError(
            f"{folder / ENCODER} gives {width} model inputs with the scaler's; the service needs {INPUT_WIDTH}"
        )
    return Encoders(encoder, scaler)


def read_pickle(path: Path) -> Any:
    """Reads a joblib or plain pickle that may hold only `ALLOWED_IN_PICKLES`.

    Raises:
        InputError: the file names anything else (nothing of it is imported or called), or is not a pickle.
    """
    from joblib.numpy_pickle import NumpyUnpickler

    class AllowListUnpickler(NumpyUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in ALLOWED_IN_PICKLES:
                raise InputError(
                    f"{path} refers to {module}.{name}, which production's files never hold; it was not run"
                )
            return super().find_class(module, name)

    with path.open("rb") as file:
        try:
            return AllowListUnpickler(str(path), file, ensure_native_byte_order=True, mmap_mode=None).load()
        except InputError:
            raise
        except Exception as error:
            # a damaged pickle can fail in any way a Python program can
            raise InputError(f"{path} is not a readable pickle ({type(error).__name__}: {error})") from error


def write_encoders(folder: Path, encoders: Encoders) -> None:
    """Writes the two pickles the way the production team does (joblib)."""
    import joblib

    joblib.dump(encoders.encoder, folder / ENCODER)
    joblib.dump(encoders.scaler, folder / SCALER)


def check_model_file(path: Path) -> dict[str, Any]:
    """Inspects a Keras .h5 without loading it: what it is, its input and output, its layers.

    Returns:
        `keras_version` (str) and `layers` (list of layer class names).

    Raises:
        InputError: not a Keras .h5, another input width than 47, another output than one value, or layers that are
            not built into Keras or carry code.
    """
    found = _inspect(path)
    if found is None:
        raise InputError(f"{path} is not a readable HDF5 file, so not a Keras .h5 model")
    if found["model_config"] is None or not found["weights"]:
        raise InputError(f"{path} is an HDF5 file without a Keras model in it")
    try:
        config = json.loads(found["model_config"])
        nodes = list(_layers(config))
        custom = sorted({node["class_name"] for node in nodes if not _is_builtin(node)})
        inputs = [shape for node in nodes if (shape := _input_shape(node["config"]))]
        last = nodes[-1]["config"]
        units, activation = last.get("units", 1), last.get("activation", "sigmoid")
        whole = [node["config"]["name"] for node in config["config"]["layers"] if node["class_name"] != "InputLayer"]
        without = [name for name in whole if name not in found["weights"]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path} has a model description that is none of Keras's ({type(error).__name__})") from error
    if custom:
        raise InputError(f"{path} has custom layers ({', '.join(custom)}); only built-in Keras layers can be served")
    if without:
        raise InputError(f"{path} has no weights for {', '.join(without)}; it is not a whole model")
    width = inputs[0][-1] if inputs else None
    if width != INPUT_WIDTH:
        raise InputError(f"{path} takes {width} inputs; the service gives {INPUT_WIDTH}")
    if units != 1 or activation != "sigmoid":
        raise InputError(f"{path} gives {units} outputs by {activation}; the service reads one probability (sigmoid)")
    return {"keras_version": found["keras_version"], "layers": [node["class_name"] for node in nodes]}


# a damaged HDF5 file can keep the library busy for ever; a good one takes a tenth of a second
INSPECT_SECONDS = 30
_INSPECT = """
import json, sys, h5py
with h5py.File(sys.argv[1]) as file:
    weights = list(file["model_weights"]) if "model_weights" in file else []
    config = file.attrs.get("model_config")
    version = str(file.attrs.get("keras_version", "unknown"))
    file["model_weights"].visititems(lambda name, item: None) if weights else None
    json.dump({"model_config": config, "weights": weights, "keras_version": version}, sys.stdout)
"""


def _inspect(path: Path) -> dict[str, Any] | None:
    """The description inside an .h5, read by a process of its own; None where it cannot be read."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _INSPECT, str(path)], capture_output=True, text=True, timeout=INSPECT_SECONDS
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every layer of a model, those of a model inside it and those that a layer wraps included."""
    for layer in config["config"]["layers"]:
        if "layers" in layer["config"]:
            yield from _layers(layer)
            continue
        yield layer
        wrapped = [value for value in layer["config"].values() if isinstance(value, dict) and "class_name" in value]
        for inner in wrapped:
            if "config" in inner and str(inner.get("module", "keras.layers")).startswith("keras.layers"):
                yield from _layers({"config": {"layers": [inner]}})


def _is_builtin(layer: dict[str, Any]) -> bool:
    name = layer["class_name"]
    return not (
        layer.get("registered_name")
        or name in CODE_LAYERS
        or not str(layer.get("module") or "keras").startswith("keras")
        or not _exported(name)
    )


def _input_shape(config: dict[str, Any]) -> list[int | None] | None:
    """The shape that a layer declares for the model's input; Keras 2 had another name for it."""
    return config.get("batch_shape") or config.get("batch_input_shape")


@cache
def _exported(class_name: str) -> bool:
    """Whether Keras has a layer of this name, asked of its list of exports so that TensorFlow stays unimported."""
    spec = find_spec("keras")
    if spec is None or spec.origin is None:
        raise RuntimeError("Keras is not installed")
    exports = (Path(spec.origin).parent / "layers" / "__init__.py").read_text()
    return f" {class_name} as {class_name}\n" in exports.replace(",\n", "\n")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
