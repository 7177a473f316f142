"""The end of a challenger's traffic, once a guardrail has shown that it does harm.

Only where an installation has said how, by MLOPS_EXPERIMENT_STOP_COMMAND; else people are told that traffic goes on. It
is run once: that it went well is a tag of the definition's run, and so is why it didn't, upon which the next look tries
again. A look that was killed in between runs it once more, so a command must bear that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from matchmaking import tracking
from matchmaking.base import settings
from matchmaking.base.command import run_command
from matchmaking.base.errors import MlopsError
from matchmaking.base.escape import say, visible
from matchmaking.experiments.definition import NAME
from matchmaking.experiments.record import ENDED_TAG, NAME_TAG, ended_runs
from matchmaking.tracking import notify

HARM = "harmful"
# when it was stopped by itself, UTC; and when and why that failed last
STOPPED_TAG, FAILED_TAG = "experiment_stopped", "experiment_stop_failed"
# the command has to say of which experiment: by the time it is run another one may be served
PLACE = "{experiment}"
BY_HAND = "`mlops experiment stop` gives everybody the champion again; on a cluster EXPERIMENT_MODE=off does."


class StopError(MlopsError):
    """A challenger does harm, and its traffic couldn't be ended."""


@dataclass(frozen=True)
class Stop:
    """What became of a challenger's traffic.

    Attributes:
        state: "stopped", "failed", or "on" where nothing was told to stop it.
        said: in words.
    """

    state: Literal["stopped", "failed", "on"]
    said: str


def stop_harmful(run_id: str, said: Mapping[str, Any]) -> Stop | None:
    """Ends the traffic of a challenger that was found harmful, where the installation says how and it hasn't been.

    Args:
        run_id: the definition's run, which remembers it.
        said: `experiment`, `verdict` and `to_come` of a reading.

    Returns:
        What became of it; None where the reading found no harm, or looks at a day to come.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if said["verdict"] != HARM or said.get("to_come"):
        return None
    return _attempt(run_id, said["experiment"])


def stop_again(but: str = "") -> list[Stop]:
    """Tries again for the experiments that have ended as harmful and couldn't be stopped; what comes of it is told.

    Args:
        but: a definition's run that this look has tried already.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    done = []
    for run in ended_runs():
        tags = run.data.tags
        if tags[ENDED_TAG] == HARM and FAILED_TAG in tags and STOPPED_TAG not in tags and run.info.run_id != but:
            name = tags.get(NAME_TAG, "")
            if not re.fullmatch(NAME, name):
                # whoever can write to MLflow can write that: no command is to have it
                say(f"{visible(name)} is no experiment's name, and isn't stopped (MLflow run {run.info.run_id})")
                continue
            stop = _attempt(run.info.run_id, name)
            say(f"{name}: {stop.said}")
            title = f"[experiment] {name}: the harmful challenger " + (
                "was stopped." if stop.state == "stopped" else "is STILL NOT stopped."
            )
            hearing = [each for each in notify.addresses() if each.hears_notices]
            notify.tell(hearing, "success" if stop.state == "stopped" else "failure", title, stop.said)
            done.append(stop)
    return done


def stopped(run_id: str) -> Stop:
    """What is recorded of it.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    with tracking.told("can't look whether the experiment was stopped"):
        tags = tracking.client().get_run(run_id).data.tags
    if when := tags.get(STOPPED_TAG):
        return Stop("stopped", f"It was stopped by itself at {when}: everybody has the champion again.")
    if why := tags.get(FAILED_TAG):
        said = f"It could NOT be stopped, and the challenger KEEPS ITS TRAFFIC ({why}). The next look tries again."
        return Stop("failed", f"{said} {BY_HAND}")
    return Stop("on", f"THE CHALLENGER KEEPS ITS TRAFFIC until somebody stops it: {BY_HAND}")


def _attempt(run_id: str, name: str) -> Stop:
    before = stopped(run_id)
    command = settings.experiment_stop_command()
    if before.state == "stopped" or not command:
        return before
    failure = _run(command, name)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    tracking.tag_run(run_id, {FAILED_TAG: f"{now}: {failure}"} if failure else {STOPPED_TAG: now})
    return stopped(run_id)


def _run(command: str, name: str) -> str | None:
    """Why it failed; None where it didn't."""
    if not re.fullmatch(NAME, name):
        return f"'{visible(name)}' is no experiment's name"
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"the stop command can't be run: {error}"
    if not any(PLACE in word for word in words):
        return f"MLOPS_EXPERIMENT_STOP_COMMAND doesn't say which experiment: it needs {PLACE}"
    # within the words: no name makes another word of itself
    filled = [word.replace(PLACE, name) for word in words]
    return run_command(filled, settings.EXPERIMENT_STOP_SECONDS, "the stop command")
