"""The MLflow record of a run, told failures, notifications.

`step` wraps what each pipeline step does; `notify` tells people; the record itself is what this room offers here.
"""

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
