"""The three files that production serves: reading them safely, checking them, and telling whether they changed.

A bundle is a folder with `lawyer_match_model.h5`, `encoder.pkl` and `scaler.pkl`. The pickles come from outside, and
a pickle can run any code when it is read: they are read through an allow-list of the classes production's own files
hold, so that a hostile one is refused before anything of it runs.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_sha256
from matchmaking.data.schema import CATEGORICAL
from matchmaking.model.features import INPUT_WIDTH, NUMBERS
from matchmaking.model.keras_file import check_model_file

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


def version_notes(folder: Path) -> list[str]:
    """Where a bundle's files were written by other versions than are installed here, each in one sentence."""
    notes = list(read_encoders(folder).notes)
    saved, here = check_model_file(folder / MODEL)["keras_version"], version("keras")
    if saved != here:
        notes.insert(0, f"{MODEL} was saved by Keras {saved}, and is loaded by {here}")
    return notes


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
