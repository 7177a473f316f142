"""Compiling the pipelines to KFP's intermediate representation."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from matchmaking.errors import InputError

PIPELINES = ("retrain", "evaluate", "monitor", "promote")


def compile_all(out: Path) -> list[Path]:
    """Writes `<pipeline>.yaml` for each pipeline into a folder; the same code gives the same bytes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} can't be made: {error.strerror}") from error
    paths = [out / f"{name}.yaml" for name in PIPELINES]
    for path in paths:
        path.write_text(compile_pipeline(path.stem), encoding="utf-8")
    return paths


def compile_pipeline(name: str) -> str:
    """One pipeline as YAML: the pipeline, and as a second document what its steps carry in Kubernetes."""
    from importlib import import_module

    from kfp.compiler import Compiler

    from pipelines.pods import retried

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # of image names without "python"
        warnings.simplefilter("ignore")
        pipeline = getattr(import_module(f"pipelines.{name}"), name)
        path = Path(folder) / "pipeline.yaml"
        with retried(pipeline):
            Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")
