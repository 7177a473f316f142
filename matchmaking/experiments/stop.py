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
from matchmaking.experiments.record import NAME_TAG, runs_of, tagged_runs
from matchmaking.tracking import notify

HARM = "harmful"
# when it was stopped by itself, UTC; and when and why that failed last
STOPPED_TAG, FAILED_TAG = "experiment_stopped", "experiment_stop_failed"
# when and by what a person saw to it after that: nothing is tried any more
SEEN_TAG = "experiment_stop_seen_to"
# the command has to say of which experiment: by the time it is run another one may be served
PLACE = "{experiment}"
# why it failed, until that was tried
OUTSIDE = "its step has a container; the process that began the run stops it once the steps have ended"
BY_HAND = "`mlops experiment stop` gives everybody the champion again; on a cluster EXPERIMENT_MODE=off does."


class StopError(MlopsError):
    """A challenger does harm, and its traffic couldn't be ended."""


@dataclass(frozen=True)
class Stop:
    """What became of a challenger's traffic.

    Attributes:
        state: "stopped", "failed", "seen to" where that was and a person has seen to it, or "on" where nothing was told
            to stop it.
        said: in words.
    """

    state: Literal["stopped", "failed", "seen to", "on"]
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
    """Tries again for the experiments that couldn't be stopped, however they ended; what comes of it is told.

    Args:
        but: a definition's run that this look has tried already.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    done = []
    for run in tagged_runs(FAILED_TAG):
        tags = run.data.tags
        if to_be_seen_to(tags) and run.info.run_id != but:
            name = tags.get(NAME_TAG, "")
            if not re.fullmatch(NAME, name):
                # whoever can write to MLflow can write that: no command is to have it
                say(f"{visible(name)} is no experiment's name, and isn't stopped (MLflow run {run.info.run_id})")
                continue
            done.append(_attempt_again(run.info.run_id, name))
    return done


def _attempt_again(run_id: str, name: str) -> Stop:
    """Tries, says what came of it, and tells those who hear notices."""
    stop = _attempt(run_id, name)
    say(f"{name}: {stop.said}")
    title = f"[experiment] {name}: the harmful challenger " + (
        "was stopped." if stop.state == "stopped" else "is STILL NOT stopped."
    )
    hearing = [each for each in notify.addresses() if each.hears_notices]
    notify.tell(hearing, "success" if stop.state == "stopped" else "failure", title, stop.said)
    return stop


def to_be_seen_to(tags: Mapping[str, str]) -> bool:
    """Whether a challenger couldn't be stopped, and neither a later run nor a person has seen to it."""
    return FAILED_TAG in tags and STOPPED_TAG not in tags and SEEN_TAG not in tags


def see_to(name: str, how: str) -> bool:
    """Records that a person has seen to a challenger that couldn't be stopped, so that no run tries any more.

    Args:
        name: the experiment's.
        how: what was done, a few words.

    Returns:
        Whether there was one to be seen to.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    found = False
    for run in runs_of(name):
        if to_be_seen_to(run.data.tags):
            tracking.tag_run(run.info.run_id, {SEEN_TAG: f"{_now()}: {how}"})
            found = True
    return found


def stopped_before(run_id: str) -> Stop | None:
    """What is recorded of it, where it was stopped; else None.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    found = stopped(run_id)
    return found if found.state == "stopped" else None


def stopped(run_id: str) -> Stop:
    """What is recorded of it.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    with tracking.told("can't look whether the experiment was stopped"):
        tags = tracking.client().get_run(run_id).data.tags
    if when := tags.get(STOPPED_TAG):
        return Stop("stopped", f"It was stopped by itself at {when}: everybody has the champion again.")
    if FAILED_TAG in tags and (seen := tags.get(SEEN_TAG)):
        return Stop("seen to", f"It could not be stopped by itself, and somebody has seen to it ({seen}).")
    if why := tags.get(FAILED_TAG):
        name = visible(tags.get(NAME_TAG, "NAME"))
        said = (
            f"It could NOT be stopped, and the challenger KEEPS ITS TRAFFIC ({why}). The next run tries again, "
            f"and fails until it works; `mlops experiment end {name} --reason ...` says that somebody has seen to it."
        )
        return Stop("failed", f"{said} {BY_HAND}")
    return Stop("on", f"THE CHALLENGER KEEPS ITS TRAFFIC until somebody stops it: {BY_HAND}")


def stop_outside(said: Mapping[str, Any]) -> list[Stop]:
    """Stops, and tries again, for a run whose steps couldn't: they had containers, which don't have the command.

    Args:
        said: of the run's summary, what it says of its experiment.

    Returns:
        As `stop_again`; nothing where the installation doesn't say how.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if not settings.experiment_stop_command():
        return []
    done, tried = [], ""
    if said.get("verdict") == HARM and not said.get("to_come"):
        for run in runs_of(said["experiment"])[:1]:
            tried = run.info.run_id
            state = stopped(tried).state
            if state == "on":
                # first: who is killed now leaves it to the next run
                tracking.tag_run(tried, {FAILED_TAG: f"{_now()}: {OUTSIDE}"})
            # also of one that had ended by another verdict, as a step would that has the command
            if state in ("on", "failed"):
                done.append(_attempt_again(tried, said["experiment"]))
    return done + stop_again(but=tried)


def _attempt(run_id: str, name: str) -> Stop:
    before = stopped(run_id)
    command = settings.experiment_stop_command()
    if before.state == "on" and not command and settings.experiment_stop_outside():
        # before anything is kept: whatever ends this run or its process, the next one tries
        tracking.tag_run(run_id, {FAILED_TAG: f"{_now()}: {OUTSIDE}"})
    if before.state in ("stopped", "seen to") or not command:
        return before
    failure = _run(command, name)
    tracking.tag_run(run_id, {FAILED_TAG: f"{_now()}: {failure}"} if failure else {STOPPED_TAG: _now()})
    return stopped(run_id)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


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
