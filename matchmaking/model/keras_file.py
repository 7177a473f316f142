"""What production's `.h5` may hold: built-in layers, finite weights, nothing that lies outside of the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_sha256
from matchmaking.model.features import INPUT_WIDTH

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


# a damaged HDF5 file can keep the library busy for ever; a good one takes a tenth of a second
INSPECT_SECONDS = 30
# what was found inside a file, by the sha256 of its bytes: a retraining's evaluation looks at two files six times
_inspected: dict[str, dict[str, Any]] = {}


def _inspect(path: Path) -> dict[str, Any] | None:
    """What `keras_probe` finds inside an .h5, in a process of its own; None where it cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        # so that the bytes that are looked at are those of the hash
        alone = Path(folder) / "model.h5"
        try:
            shutil.copyfile(path, alone)
        except OSError:
            return None
        sha256 = file_sha256(alone)
        if sha256 not in _inspected:
            found = _probe(alone)
            # one that was too busy this time may not be the next
            if found is None:
                return None
            _inspected[sha256] = found
    return _inspected[sha256]


def _probe(path: Path) -> dict[str, Any] | None:
    # -I: nothing of the folder that somebody happens to stand in is imported
    command = [sys.executable, "-I", str(Path(__file__).with_name("keras_probe.py")), str(path)]
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
