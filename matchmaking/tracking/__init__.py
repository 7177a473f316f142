"""The MLflow record of a run, told failures, notifications.

`step` wraps what each pipeline step does; `notify` tells people; the record itself is what this room offers here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchmaking.tracking.connection import TrackingError, check_uri, client, told
    from matchmaking.tracking.runs import (
        OpenRun,
        assume_training_data,
        begun,
        close_run,
        fail_job,
        fail_named,
        fail_run,
        failure,
        finish_run,
        links,
        log_params,
        now,
        open_runs,
        start_run,
        succeed_run,
        tag_run,
    )

__all__ = [
    "OpenRun",
    "TrackingError",
    "assume_training_data",
    "begun",
    "check_uri",
    "client",
    "close_run",
    "fail_job",
    "fail_named",
    "fail_run",
    "failure",
    "finish_run",
    "links",
    "log_params",
    "now",
    "open_runs",
    "start_run",
    "succeed_run",
    "tag_run",
    "told",
]


def __getattr__(name: str) -> Any:
    """What is offered, imported when it is asked for: `step`, which every step begins with, is in this room too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    connection = import_module("matchmaking.tracking.connection")
    source = connection if hasattr(connection, name) else import_module("matchmaking.tracking.runs")
    return getattr(source, name)
