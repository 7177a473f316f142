"""Compiling the pipelines to KFP's intermediate representation."""

from __future__ import annotations

import warnings
from pathlib import Path


def compile_all(out: Path) -> list[Path]:
    """Writes `<pipeline>.yaml` for each pipeline into a folder; the same code gives the same bytes."""
    from kfp.compiler import Compiler

    from pipelines.evaluate import evaluate
    from pipelines.monitor import monitor
    from pipelines.promote import promote
    from pipelines.retrain import retrain

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for pipeline in (retrain, evaluate, monitor, promote):
        path = out / f"{pipeline.name}.yaml"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths
