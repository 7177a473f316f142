"""Compiling the pipelines to KFP's intermediate representation."""

from __future__ import annotations

import warnings
from pathlib import Path

from matchmaking.errors import InputError


def compile_all(out: Path) -> list[Path]:
    """Writes `<pipeline>.yaml` for each pipeline into a folder; the same code gives the same bytes."""
    from kfp.compiler import Compiler

    from pipelines.evaluate import evaluate
    from pipelines.monitor import monitor
    from pipelines.promote import promote
    from pipelines.retrain import retrain

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} can't be made: {error.strerror}") from error
    paths = []
    for pipeline in (retrain, evaluate, monitor, promote):
        path = out / f"{pipeline.name}.yaml"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths
