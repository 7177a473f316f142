"""What becomes of a reading: kept with the experiment's definition, and told to people once when it comes to an end.

That an experiment has ended and who has been told of it are two things: where nobody hears yet, it has ended all the
same, and is told by the first run that finds an address.

`unreadable` for what logs that come late may repair (`REPAIRABLE`) alone is no end before the planned length is over: a
part of the log that isn't there yet can make arms look as if they couldn't be compared, and once it is they can. It is
told once for each new thing that is found, and read on every day; so is what becomes of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from matchmaking import tracking
from matchmaking.experiments.page import say_on_page
from matchmaking.experiments.record import (
    ENDED_TAG,
    PAGE,
    RESULTS,
    TOLD_TAG,
    ended_runs,
    keep,
    newest_report,
    recorded,
)
from matchmaking.experiments.stop import BY_HAND, HARM, Stop, stop_harmful, stopped, tried
from matchmaking.tracking import notify

# of apprise's own kinds
KINDS = {"better": "success", "worse": "warning", "harmful": "failure", "unreadable": "failure"}
GO_ON, UNREADABLE = "go on", "unreadable"
# the checks that find something where a part of the log isn't there yet, two of them by a share of clients, which is
# larger among few; that somebody was exposed too early, in the wrong arm, by another model or version of the service
# stays so, whatever comes
REPAIRABLE = frozenset(
    {"sample-ratio-mismatch", "labels-arrive-apart", "outcome-without-exposure", "bot", "client-in-both-arms"}
)
AGAIN = "The arms can be compared again."
# sending takes seconds: of who has claimed it and hasn't said for so long that it is sent, another takes it over
LEASE = timedelta(minutes=5)
CLAIM = "telling"
# between `unreadable` and what was found, where that is no end
FOUND = " for "


def ends(said: dict[str, Any]) -> bool:
    """Whether a reading, as in `RESULTS`, is the end of its experiment.

    `unreadable` for what no later log repairs is. That it isn't for the rest, while days are to come, costs the
    statements nothing. Each look computes all looks anew from all logs that are there by then. The confidence
    sequence, the guardrails' bounds and the mismatch's evidence hold at all looks at once, so also at those that
    somebody was kept from seeing, whatever kept him: of the complete logs, the chance that a verdict other than
    `unreadable` is ever wrong stays what it was, and so does that of a false mismatch, which no further day takes back
    where the logs stay the same. What was unreadable decides nothing meanwhile, so logs with a hole that is noticed
    have no try of their own. A hole that no check notices has one, as it always had: what is said of incomplete logs
    is said of those.
    """
    if said["verdict"] == UNREADABLE:
        return bool(said["day"] >= said["last_day"] or _for_good(said))
    return bool(said["verdict"] != GO_ON)


def _for_good(said: dict[str, Any]) -> list[str]:
    """What a reading has found that keeps arms from being compared, and for which late logs are no remedy."""
    return [one["code"] for one in said["checks"] if one["stops"] and one["code"] not in REPAIRABLE]


def keep_reading(folder: Path, stamp: str) -> tuple[str, Stop | None]:
    """Keeps a report with the definition of its experiment, makes its verdict the experiment's, and ends it by that.

    Before all that it stops what does harm (`stop.stop_harmful`): who is killed after it is looked at again.
    See `ends` for which verdicts do.

    Args:
        folder: with `RESULTS`, and the page.
        stamp: the run's, UTC; a step that is tried again writes the same.

    Returns:
        The id of the definition's run, empty for a look at a day to come, of which nothing is kept; and what became of
        a challenger's traffic that does harm, or was stopped by an earlier look.

    Raises:
        RefusedError: the definition isn't the one that was recorded.
        TrackingError: MLflow can't be reached.
    """
    said = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if said.get("to_come"):
        return "", None
    run_id, _ = recorded(said["experiment"])
    # that it was stopped, or couldn't be, is said by each look, also where the logs by now say that it does no harm
    stop = stop_harmful(run_id, said, tell=True)
    with tempfile.TemporaryDirectory() as whole:
        kept = Path(shutil.copytree(folder, whole, dirs_exist_ok=True))
        if stop:
            say_on_page(kept / PAGE, stop.said, served=stop.served)
        keep(run_id, kept, stamp)
    if ends(said):
        with tracking.told("can't end the experiment"):
            ended = ENDED_TAG in tracking.client().get_run(run_id).data.tags
        if not ended:
            tracking.tag_run(run_id, {ENDED_TAG: said["verdict"]})
    return run_id, stop


def tell_verdict(run_id: str, said: dict[str, Any], links: Sequence[str], teller: str) -> None:
    """Tells of a verdict that ends an experiment, each address once; who wasn't reached is told by the next run.

    So it does of arms that can't be compared while it goes on, once for each new thing that is found; and where they
    can be again, of that.

    Args:
        run_id: the definition's run, which remembers who has been told of what.
        said: what is in `RESULTS`, once `keep_reading` has kept it.
        links: where people read more, a line each.
        teller: the id of the run that tells: of two at once one does, and a step that is tried again goes on.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    hearing = [each for each in notify.addresses() if each.hears_notices]
    if said.get("to_come") or not hearing:
        return
    verdict = said["verdict"]
    state = _state(run_id, said)
    if not state or not _left(run_id, state, hearing) or not _claim(run_id, state, teller):
        return
    # whoever claimed it before may have told it
    to, heard = _left(run_id, state, hearing), _heard(run_id, state)
    if not to:
        return
    lines = [said["reason"], *(f"{label}: {value}" for label, value in said["results"])]
    if FOUND in state:
        lines.append(
            f"It is read every day until day {said['last_day']}, as logs that come late may repair it; "
            f"`mlops experiment end {said['experiment']}` gives it up."
        )
    elif verdict == UNREADABLE and (broken := _for_good(said)):
        lines.append(f"It has ended, and is read no more: late logs are no remedy for {', '.join(broken)}.")
    elif verdict == UNREADABLE and ends(said):
        lines.append(f"The planned {said['last_day']} days are over: it is read no more.")
    if before := stopped(run_id) if verdict == HARM else tried(run_id):
        lines.append(before.said)
    elif verdict in ("unreadable", "worse"):
        lines.append(f"The challenger keeps its traffic until somebody stops it: {BY_HAND}")
    title = f"[experiment] {said['experiment']}: {AGAIN + ' ' if verdict == GO_ON else ''}{said['headline']}"
    heard |= notify.tell(to, KINDS.get(verdict, "info"), title, "\n".join([*lines, *links]))
    missing = {each.key for each in hearing} - heard
    tracking.tag_run(run_id, {TOLD_TAG: f"{state}:{','.join(sorted(heard))}" if missing else state})


def _state(run_id: str, said: dict[str, Any]) -> str:
    """What there is to tell of a reading, as the tag has it; empty for nothing.

    A verdict's own name where it ends the experiment; `unreadable` followed by all that was found since it could be
    read last, where it goes on; `go on` where it couldn't be read before.
    """
    with tracking.told("can't look for what has been told"):
        tags = tracking.client().get_run(run_id).data.tags
    told = str(tags.get(TOLD_TAG, "")).partition(":")[0]
    verdict, _, before = told.partition(FOUND)
    if said["verdict"] == UNREADABLE and ENDED_TAG not in tags:
        found = {one["code"] for one in said["checks"] if one["stops"]}
        found |= {f"harm-{one['name'].split()[0]}" for one in said["guardrails"] if one["look"] is not None}
        found |= set(before.split(",")) if verdict == UNREADABLE and before else set()
        return f"{UNREADABLE}{FOUND}{','.join(sorted(found))}"
    if said["verdict"] == GO_ON and (ENDED_TAG in tags or verdict not in (UNREADABLE, GO_ON)):
        return ""
    return str(said["verdict"])


def tell_ended(links: Sequence[str], teller: str) -> None:
    """Tells of the experiments that have ended and of which somebody who hears notices hasn't been told.

    Args:
        links: as in `tell_verdict`.
        teller: as there.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if not any(each.hears_notices for each in notify.addresses()):
        return
    for run in ended_runs():
        verdict = run.data.tags[ENDED_TAG]
        told = run.data.tags.get(TOLD_TAG, "").partition(":")[0].partition(FOUND)[0]
        if told not in ("", verdict, UNREADABLE, GO_ON):
            # something else that ends it was found and told since
            continue
        if run.data.tags.get(TOLD_TAG) != verdict:
            said = newest_report(run.info.run_id)
            if said and said["verdict"] == verdict:
                tell_verdict(run.info.run_id, said, links, teller)


def _heard(run_id: str, verdict: str) -> set[str]:
    """The keys of those who have heard of a verdict, where not everybody was reached."""
    with tracking.told("can't look for who has been told"):
        known = str(tracking.client().get_run(run_id).data.tags.get(TOLD_TAG, ""))
    of, _, keys = known.partition(":")
    return set(filter(None, keys.split(","))) if of == verdict else set()


def _left(run_id: str, verdict: str, hearing: Sequence[notify.Address]) -> list[notify.Address]:
    """Who is to be told still; nobody once everybody was, whatever addresses have come since."""
    with tracking.told("can't look for who has been told"):
        known = str(tracking.client().get_run(run_id).data.tags.get(TOLD_TAG, ""))
    if known == verdict:
        return []
    heard = _heard(run_id, verdict)
    return [each for each in hearing if each.key not in heard]


def _claim(run_id: str, verdict: str, teller: str) -> bool:
    """Whether it is this run that tells: MLflow changes no parameter that has a value, so of two at once one does."""
    from mlflow.exceptions import MlflowException

    name = verdict if FOUND not in verdict else f"{UNREADABLE}-{hashlib.sha256(verdict.encode()).hexdigest()[:8]}"
    prefix = f"{CLAIM}_{name}_"
    with tracking.told("can't claim the telling"):
        params = tracking.client().get_run(run_id).data.params
        claims = sorted(key for key in params if key.startswith(prefix))
        if claims:
            at, _, who = params[claims[-1]].partition(" ")
            if datetime.now(UTC) - datetime.fromisoformat(at) < LEASE:
                return who == teller
        key, value = f"{prefix}{len(claims) + 1:04d}", f"{datetime.now(UTC).isoformat()} {teller}"
        try:
            tracking.client().log_param(run_id, key, value)
        except MlflowException:
            # said again after an answer that was lost, it is there already, and that is no error
            kept = tracking.client().get_run(run_id).data.params.get(key)
            if kept is None:
                raise
            return bool(kept == value)
    return True
