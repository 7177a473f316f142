"""Which options of `mlops run` and `mlops submit` say something to which pipelines."""

from __future__ import annotations

from typing import Annotated

import typer

from matchmaking.base.errors import InputError

ExperimentName = Annotated[str, typer.Option(help="experiment: which one.", show_default="the one that is under way")]
Until = Annotated[str, typer.Option(help="experiment: as of when, ISO 8601 with an offset.", show_default="now")]
# the others are for all pipelines
PIPELINES_OF = {
    "production": ("retrain", "sweep", "evaluate", "evaluate-parts", "monitor", "monitor-parts", "observe", "promote"),
    "data": ("retrain", "sweep", "evaluate", "evaluate-parts", "monitor", "monitor-parts", "observe"),
    "data_rev": ("retrain", "sweep", "evaluate", "evaluate-parts", "monitor", "monitor-parts", "observe"),
    "seed": ("retrain", "sweep", "evaluate", "evaluate-parts", "monitor", "monitor-parts", "observe"),
    "memory": ("retrain", "sweep", "evaluate", "evaluate-parts", "monitor", "monitor-parts", "observe", "experiment"),
    "split": ("retrain", "sweep", "evaluate", "evaluate-parts"),
    "production_data": ("retrain", "sweep", "evaluate", "evaluate-parts"),
    "candidates": ("retrain", "sweep"),
    "algorithm": ("retrain",),
    "trials": ("sweep",),
    "epochs": ("retrain", "sweep"),
    "batch_size": ("retrain",),
    "learning_rate": ("retrain",),
    "fail_on_degraded": ("evaluate", "evaluate-parts"),
    "current": ("monitor", "monitor-parts"),
    "predictions": ("observe",),
    "outcomes": ("observe", "experiment"),
    "exposures": ("experiment",),
    "pairs": ("experiment",),
    "experiment_name": ("experiment",),
    "until": ("experiment",),
    "period": ("observe",),
    "fail_on_drift": ("monitor", "monitor-parts"),
    "version": ("promote",),
    "force": ("promote",),
    "reason": ("promote",),
    "win": ("promote",),
}


def check_options(context: typer.Context, pipeline: str) -> None:
    """Refuses an option on the command line that the pipeline would take no notice of.

    Raises:
        InputError: it is one of another pipeline.
    """
    for name, pipelines in PIPELINES_OF.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and pipeline not in pipelines:
            option = name.upper() if name == "version" else f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is for {' and '.join(pipelines)}; {pipeline} would take no notice of it")


def given(context: typer.Context) -> set[str]:
    """The parameters that were given on the command line or by an environment variable."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name in ("COMMANDLINE", "ENVIRONMENT")}
