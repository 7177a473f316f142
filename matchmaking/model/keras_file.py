"""The three files that production serves: reading them safely, checking them, and telling whether they changed.

A bundle is a folder with `lawyer_match_model.h5`, `encoder.pkl` and `scaler.pkl`. The pickles come from outside, and
a pickle can run any code when it is read: they are read through an allow-list of the classes production's own files
hold, so that a hostile one is refused before anything of it runs.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
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
# built-in Keras layers that carry code of their own (a marshalled function, another framework's module), or read a file
# that their configuration names (a vocabulary)
CODE_LAYERS = frozenset(
    {
        "Lambda",
        "TorchModuleWrapper",
        "JaxLayer",
        "FlaxLayer",
        "TFSMLayer",
        "StringLookup",
        "IntegerLookup",
        "TextVectorization",
    }
)
# where a model's configuration may take its classes from, and its functions; anything else of Keras may do anything
# (`keras.utils.get_file`)
CLASSES_FROM = (
    "layers",
    "models",
    "initializers",
    "regularizers",
    "constraints",
    "losses",
    "metrics",
    "optimizers",
    "optimizers.schedules",
    "dtype_policies",
)
FUNCTIONS_FROM = ("activations", "losses", "metrics")
# a pickle of an encoder is some KB; one that unpacks to more is none
MOST_UNPACKED = 64 << 20


@dataclass(frozen=True)
class Encoders:
    """The fitted OneHotEncoder over `CATEGORICAL` and the fitted StandardScaler over `NUMBERS`.

    Attributes:
        encoder, scaler: the fitted objects.
        notes: in what they differ from what this installation would write, each in one sentence.
    """

    encoder: Any
    scaler: Any
    notes: tuple[str, ...] = ()

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

    encoder, encoder_written = _read_fitted(folder / ENCODER)
    if not isinstance(encoder, OneHotEncoder) or not hasattr(encoder, "categories_"):
        raise InputError(f"{folder / ENCODER} holds {_kind(encoder)}, not a fitted OneHotEncoder")
    if list(getattr(encoder, "feature_names_in_", [])) != list(CATEGORICAL):
        raise InputError(f"{folder / ENCODER} encodes other columns than {', '.join(CATEGORICAL)}")
    scaler, scaler_written = _read_fitted(folder / SCALER)
    if not isinstance(scaler, StandardScaler) or not hasattr(scaler, "scale_"):
        raise InputError(f"{folder / SCALER} holds {_kind(scaler)}, not a fitted StandardScaler")
    if list(getattr(scaler, "feature_names_in_", [])) != list(NUMBERS):
        raise InputError(f"{folder / SCALER} scales other columns than {', '.join(NUMBERS)}")
    width = sum(len(known) for known in encoder.categories_) + len(NUMBERS)
    if width != INPUT_WIDTH:
        raise InputError(
            f"{folder / ENCODER} gives {width} model inputs with the scaler's; the service needs {INPUT_WIDTH}"
        )
    _try(folder / ENCODER, encoder, encoder_written, [[known[0] for known in encoder.categories_]], CATEGORICAL)
    _try(folder / SCALER, scaler, scaler_written, [[1.0] * len(NUMBERS)], NUMBERS)
    notes = _note(folder / ENCODER, encoder_written), _note(folder / SCALER, scaler_written)
    return Encoders(encoder, scaler, tuple(note for note in notes if note))


def _read_fitted(path: Path) -> tuple[Any, str]:
    """What a pickle holds, and the scikit-learn that it says wrote it ("an unknown version" where it doesn't say)."""
    with warnings.catch_warnings():
        # of another version, which is told where people look
        warnings.simplefilter("ignore")
        value = read_pickle(path)
    # the attribute is gone when the object is there
    written = re.search(
        rb"_sklearn_version(?:\x94|q.|r.{4})?(?:\x8c.|X.{4})([0-9][\w.+]*)", _unpacked(path), flags=re.DOTALL
    )
    return value, written.group(1).decode() if written else "an unknown version"


def _note(path: Path, written: str) -> str:
    here = version("scikit-learn")
    return f"{path.name} was written by scikit-learn {written}, and is read by {here}" if written != here else ""


def _try(path: Path, fitted: Any, written: str, row: list[list[Any]], columns: tuple[str, ...]) -> None:
    """Transforms one row: what was fitted by another version may lack what this one needs."""
    import numpy as np
    import pandas as pd

    try:
        given = fitted.transform(pd.DataFrame(row, columns=list(columns)))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        here = version("scikit-learn")
        raise InputError(
            f"{path} can't be used by scikit-learn {here} ({reason}); it says that {written} wrote it. "
            f"Write it again with scikit-learn {here}"
        ) from error
    if not np.isfinite(given.toarray() if hasattr(given, "toarray") else given).all():
        raise InputError(f"{path} makes NaN or infinity of ordinary values; it was fitted on such, or is damaged")


def read_pickle(path: Path) -> Any:
    """Reads a joblib (also a compressed one) or plain pickle that may hold only `ALLOWED_IN_PICKLES`.

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

    try:
        content = io.BytesIO(_unpacked(path))
        return AllowListUnpickler(str(path), content, ensure_native_byte_order=True, mmap_mode=None).load()
    except InputError:
        raise
    except Exception as error:
        # a damaged pickle can fail in any way a Python program can
        raise InputError(f"{path} is not a readable pickle ({type(error).__name__}: {error})") from error


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked where joblib has packed them (zlib, gzip, bz2, xz or lzma)."""
    packers: dict[bytes, Callable[[], Any]] = {
        b"\x78": zlib.decompressobj,
        b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
        b"BZ": bz2.BZ2Decompressor,
        b"\xfd7zXZ": lzma.LZMADecompressor,
        b"\x5d\x00": lzma.LZMADecompressor,
    }
    content = path.read_bytes()
    for magic, unpacker in packers.items():
        if content.startswith(magic):
            content = unpacker().decompress(content, MOST_UNPACKED + 1)
            break
    if len(content) > MOST_UNPACKED:
        raise InputError(f"{path} holds more than {MOST_UNPACKED >> 20} MB, which no encoder does")
    return content


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
    if found["outside"]:
        raise InputError(f"{path} isn't whole in itself: it has {found['outside'][0]}; Keras writes no such file")
    if found["model_config"] is None or not found["weights"]:
        raise InputError(f"{path} is an HDF5 file without a Keras model in it")
    try:
        config = json.loads(found["model_config"])
        nodes = list(_layers(config))
        described = [config, json.loads(found["training_config"] or "{}")]
        custom = sorted({str(part.get("class_name")) for part in _objects(described) if not _is_builtin(part)})
        inputs = [shape for node in nodes if (shape := _input_shape(node["config"]))]
        last = nodes[-1]["config"]
        units, activation = last.get("units", 1), last.get("activation", "sigmoid")
        whole = [node["config"]["name"] for node in config["config"]["layers"] if node["class_name"] != "InputLayer"]
        without = [name for name in whole if name not in found["weights"]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} has a model description that is none of Keras's ({type(error).__name__})") from error
    if custom:
        raise InputError(
            f"{path} has custom layers or functions ({', '.join(custom)}); only what is built into Keras, and neither "
            "carries code nor reads files, can be served"
        )
    if without:
        raise InputError(f"{path} has no weights for {', '.join(without)}; it is not a whole model")
    if found["not_finite"]:
        raise InputError(f"{path} has NaN or infinity among its weights ({', '.join(found['not_finite'][:3])})")
    width = inputs[0][-1] if inputs else None
    if width != INPUT_WIDTH:
        raise InputError(f"{path} takes {width} inputs; the service gives {INPUT_WIDTH}")
    if units != 1 or activation != "sigmoid":
        raise InputError(f"{path} gives {units} outputs by {activation}; the service reads one probability (sigmoid)")
    return {
        "keras_version": found["keras_version"] or "unknown",
        "layers": [node["class_name"] for node in nodes],
    }


@contextmanager
def checked_copy(path: Path) -> Iterator[Path]:
    """A copy of a model file that nobody else can change, checked: what is loaded is what was looked at.

    Raises:
        InputError: see `check_model_file`.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / path.name
        shutil.copyfile(path, alone)
        try:
            check_model_file(alone)
        except InputError as error:
            raise InputError(str(error).replace(str(alone), str(path))) from error
        yield alone


def version_notes(folder: Path) -> list[str]:
    """Where a bundle's files were written by other versions than are installed here, each in one sentence."""
    notes = list(read_encoders(folder).notes)
    saved, here = check_model_file(folder / MODEL)["keras_version"], version("keras")
    if saved != here:
        notes.insert(0, f"{MODEL} was saved by Keras {saved}, and is loaded by {here}")
    return notes


# a damaged HDF5 file can keep the library busy for ever; a good one takes a tenth of a second
INSPECT_SECONDS = 30


def _inspect(path: Path) -> dict[str, Any] | None:
    """What `model_file` finds inside an .h5, in a process of its own; None where it cannot be read."""
    # -I: nothing of the folder that somebody happens to stand in is imported
    command = [sys.executable, "-I", str(Path(__file__).with_name("model_file.py")), str(path)]
    try:
        # plugins of the HDF5 library are never loaded
        environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSPECT_SECONDS, env=environment)
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
        for inner in layer["config"].values():
            # an initializer looks the same but for its name
            if isinstance(inner, dict) and "config" in inner and inner.get("class_name") in _exported("layers"):
                yield from _layers({"config": {"layers": [inner]}})


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in a configuration, at any depth, that Keras would make an object of."""
    if isinstance(value, dict):
        if "class_name" in value or "module" in value or "registered_name" in value:
            yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _is_builtin(part: dict[str, Any]) -> bool:
    """Whether a part of a configuration is one of Keras's own classes or functions, and harmless."""
    name, module, registered = (part.get(key) for key in ("class_name", "module", "registered_name"))
    if name == "__keras_tensor__":
        # a place in the graph
        return set(part) == {"class_name", "config"}
    places: tuple[str, ...]
    if name == "function":
        name, places = part.get("config"), FUNCTIONS_FROM
        harmless = name not in ("get", "serialize", "deserialize")
    else:
        places = CLASSES_FROM
        harmless = isinstance(name, str) and name[:1].isupper() and name not in CODE_LAYERS
    if not isinstance(name, str) or not harmless or registered not in (None, "", name):
        return False
    if name == "Functional":
        return module in (None, "keras", "keras.models", "keras.src.models.functional")
    if module in (None, "keras", "builtins"):
        return any(name in _exported(place) for place in places)
    return any(module == f"keras.{place}" and name in _exported(place) for place in places)


def _input_shape(config: dict[str, Any]) -> list[int | None] | None:
    """The shape that a layer declares for the model's input; Keras 2 had another name for it."""
    return config.get("batch_shape") or config.get("batch_input_shape")


@cache
def _exported(place: str) -> frozenset[str]:
    """The public names of a module of Keras, read from its list of exports so that TensorFlow stays unimported."""
    spec = find_spec("keras")
    if spec is None or spec.origin is None:
        raise RuntimeError("Keras is not installed")
    exports = (Path(spec.origin).parent.joinpath(*place.split(".")) / "__init__.py").read_text()
    return frozenset(name for pair in re.findall(r"\bimport \(?\s*(\w+) as (\w+)", exports) for name in pair)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
