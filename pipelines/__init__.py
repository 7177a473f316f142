"""The pipelines: one DAG a file, what their pods carry, and the compiler."""

from enum import StrEnum


class Pipeline(StrEnum):
    """All of them."""

    retrain = "retrain"
    sweep = "sweep"
    evaluate = "evaluate"
    monitor = "monitor"
    observe = "observe"
    experiment = "experiment"
    promote = "promote"


PIPELINES = tuple(each.value for each in Pipeline)
