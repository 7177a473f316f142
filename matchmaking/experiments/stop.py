"""The end of a challenger's traffic, once a guardrail has shown that it does harm.

Only where an installation has said how, by MLOPS_EXPERIMENT_STOP_COMMAND; else people are told that traffic goes on. It
is run once: that it went well is a tag of the definition's run, and so is why it didn't, upon which the next look tries
again. That it was begun is such a reason until it has ended, so who is killed in between leaves it to the next look,
which runs it once more: a command must bear that. The run's description says the same to those who read MLflow.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from matchmaking import tracking
from matchmaking.base import settings
from matchmaking.base.command import run_command
from matchmaking.base.errors import MlopsError
from matchmaking.base.escape import for_markdown, say, visible
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
# MLflow shows it first of all
NOTE_TAG = "mlflow.note.content"
# why it failed, until that was tried; and until it is known how it went
OUTSIDE = "its step has a container; the process that began the run stops it once the steps have ended"
BEGUN = "that was begun, and isn't known to have gone well"
BY_HAND = "`mlops experiment stop` gives everybody the champion again; on a cluster EXPERIMENT_MODE=off does."


class StopError(MlopsError):
    """A challenger does harm, and its traffic couldn't be ended.

    Attributes:
        told: whether those who hear notices have heard of it by now.
    """

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


@dataclass(frozen=True)
class Stop:
    """What became of a challenger's traffic.

    Attributes:
        state: "stopped", "failed", "seen to" where that was and a person has seen to it, "waiting" where the process
            that began the run is to stop it, or "on" where nothing was told to stop it.
        said: in words.
        experiment: whose challenger it is.
        run_id: of that experiment's definition.
        told: whether those who hear notices have been told of this attempt.
    """

    state: Literal["stopped", "failed", "seen to", "waiting", "on"]
    said: str
    experiment: str = ""
    run_id: str = ""
    told: bool = False

    @property
    def served(self) -> bool:
        """Whether the challenger has its traffic, as far as is known."""
        return self.state in ("failed", "waiting", "on")


def stop_harmful(run_id: str, said: Mapping[str, Any], *, tell: bool = False) -> Stop | None:
    """Ends the traffic of a challenger that was found harmful, where the installation says how and it hasn't been.

    One that couldn't be stopped by an earlier look is tried again, whatever is found now.

    Args:
        run_id: the definition's run, which remembers it.
        said: `experiment`, `verdict` and `to_come` of a reading.
        tell: tell those who hear notices what came of trying again; of the first time the verdict's notice tells.

    Returns:
        What became of it; None where no look has found harm, or it looks at a day to come.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if said.get("to_come"):
        return None
    before = stopped(run_id)
    if said["verdict"] != HARM and before.state != "failed":
        return before if before.state != "on" else None
    return _attempt(run_id, said["experiment"], tell=tell and before.state == "failed")


def stop_again(but: Collection[str] = ()) -> list[Stop]:
    """Tries again for the experiments that couldn't be stopped, however they ended; what comes of it is told.

    In a container nothing: the process that began the run has tried, or does.

    Args:
        but: the definitions' runs that this look has tried already.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if _is_outside():
        return []
    done = []
    for run in tagged_runs(FAILED_TAG):
        tags = run.data.tags
        if to_be_seen_to(tags) and run.info.run_id not in but:
            name = tags.get(NAME_TAG, "")
            if not re.fullmatch(NAME, name):
                # whoever can write to MLflow can write that: no command is to have it
                say(f"{visible(name)} is no experiment's name, and isn't stopped (MLflow run {run.info.run_id})")
                continue
            done.append(_attempt(run.info.run_id, name, tell=True))
    return done


def _tell(stop: Stop) -> Stop:
    """Says what came of an attempt, and tells those who hear notices."""
    say(f"{stop.experiment}: {stop.said}")
    title = f"[experiment] {stop.experiment}: the harmful challenger " + (
        "was stopped." if stop.state == "stopped" else "is STILL NOT stopped."
    )
    hearing = [each for each in notify.addresses() if each.hears_notices]
    notify.tell(hearing, "success" if stop.state == "stopped" else "failure", title, stop.said)
    return replace(stop, told=True)


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
            _record(run.info.run_id, {SEEN_TAG: f"{_now()}: {how}"})
            found = True
    return found


def tried(run_id: str) -> Stop | None:
    """What is recorded of it, where that was tried; else None.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    found = stopped(run_id)
    return found if found.state != "on" else None


def tried_of(name: str) -> list[Stop]:
    """What is to be known before an experiment's traffic changes.

    Args:
        name: the experiment's.

    Returns:
        What became of its own challenger, where it was to be stopped; those of others that couldn't be; and the last
        other one that was stopped.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    ours = [tried(run.info.run_id) for run in runs_of(name)[:1]]
    others = [run for run in tagged_runs(FAILED_TAG) if run.data.tags.get(NAME_TAG) != name]
    served = [stopped(run.info.run_id) for run in others if to_be_seen_to(run.data.tags)]
    before = [run for run in tagged_runs(STOPPED_TAG) if run.data.tags.get(NAME_TAG) != name]
    last = sorted(before, key=lambda run: str(run.data.tags[STOPPED_TAG]))[-1:]
    return [*filter(None, ours), *served, *(stopped(run.info.run_id) for run in last)]


def stopped(run_id: str) -> Stop:
    """What is recorded of it.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    with tracking.told("can't look whether the experiment was stopped"):
        tags = tracking.client().get_run(run_id).data.tags
    name = visible(tags.get(NAME_TAG, "NAME"))
    whose = (name, run_id)
    if when := tags.get(STOPPED_TAG):
        return Stop("stopped", f"It was stopped by itself at {when}: everybody has the champion again.", *whose)
    if FAILED_TAG in tags and (seen := tags.get(SEEN_TAG)):
        return Stop("seen to", f"It could not be stopped by itself, and somebody has seen to it ({seen}).", *whose)
    if why := tags.get(FAILED_TAG):
        how = "is NOT known to be" if _is_open(why) else "could NOT be"
        said = (
            f"It {how} stopped, and the challenger KEEPS ITS TRAFFIC ({why}). The next run tries again, "
            f"and fails until it works; `mlops experiment end {name} --reason ...` says that somebody has seen to it."
        )
        return Stop("failed", f"{said} {BY_HAND}", *whose)
    return Stop("on", f"THE CHALLENGER KEEPS ITS TRAFFIC until somebody stops it: {BY_HAND}", *whose)


def stop_outside(said: Mapping[str, Any], but: Collection[str] = ()) -> list[Stop]:
    """Stops, and tries again, for a run whose steps couldn't: they had containers, which don't have the command.

    Args:
        said: of the run's summary, what it says of its experiment.
        but: the definitions' runs that this run has tried already.

    Returns:
        As `stop_again`; nothing where the installation doesn't say how.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if not settings.experiment_stop_command():
        return []
    done = []
    if said.get("verdict") == HARM and not said.get("to_come"):
        for run in runs_of(said["experiment"])[:1]:
            # also of one that had ended by another verdict, as a step would that has the command
            if run.info.run_id not in but and stopped(run.info.run_id).state in ("on", "failed"):
                done.append(_attempt(run.info.run_id, said["experiment"], tell=True))
    return done + stop_again(but=[*but, *(each.run_id for each in done)])


def _attempt(run_id: str, name: str, *, tell: bool) -> Stop:
    before = stopped(run_id)
    command = settings.experiment_stop_command()
    if before.state in ("stopped", "seen to"):
        return before
    if _is_outside():
        if before.state == "on":
            # before anything is kept: whatever ends this run or its process, the next one tries
            _record(run_id, {FAILED_TAG: f"{_now()}: {OUTSIDE}"})
        return replace(stopped(run_id), state="waiting")
    if not command:
        return _tell(before) if tell else before
    if before.state == "on":
        # first, as said above; where that can't be recorded, it is stopped all the same
        with contextlib.suppress(tracking.TrackingError):
            _record(run_id, {FAILED_TAG: f"{_now()}: {BEGUN}"})
    if failure := _run(command, name):
        _record(run_id, {FAILED_TAG: f"{_now()}: {failure}"})
    else:
        _record(run_id, {STOPPED_TAG: _now()})
    after = stopped(run_id)
    return _tell(after) if tell else after


def _is_outside() -> bool:
    """Whether this is a step whose traffic another process ends."""
    return settings.experiment_stop_outside() and not settings.experiment_stop_command()


def _is_open(why: str) -> bool:
    """Whether that is no failure, but something of which the end isn't known."""
    return why.endswith((OUTSIDE, BEGUN))


def _record(run_id: str, tags: Mapping[str, str]) -> None:
    """Tags a definition's run with what became of its challenger, and makes that its description."""
    tracking.tag_run(run_id, tags)
    if STOPPED_TAG in tags:
        with tracking.told("can't record that the experiment was stopped"):
            if _is_open(tracking.client().get_run(run_id).data.tags.get(FAILED_TAG, "")):
                # it hasn't failed
                tracking.client().delete_tag(run_id, FAILED_TAG)
    tracking.tag_run(run_id, {NOTE_TAG: for_markdown(f"The challenger does harm. {stopped(run_id).said}")})


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
