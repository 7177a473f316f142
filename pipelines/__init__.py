"""The pipelines: one DAG a file, what their pods carry, and the compiler."""

from enum import StrEnum
from importlib import import_module
from typing import Any


class Pipeline(StrEnum):
    """All of them."""

    retrain = "retrain"
    sweep = "sweep"
    evaluate = "evaluate"
    evaluate_parts = "evaluate-parts"
    monitor = "monitor"
    monitor_parts = "monitor-parts"
    observe = "observe"
    experiment = "experiment"
    promote = "promote"


PIPELINES = tuple(each.value for each in Pipeline)


def function(name: str) -> Any:
    """A pipeline's function, by the pipeline's name; kfp is imported with it."""
    called = name.replace("-", "_")
    return getattr(import_module(f"pipelines.{called}"), called)
