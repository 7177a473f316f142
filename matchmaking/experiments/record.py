"""The MLflow record of an experiment: its definition, fixed before the first exposure, and what came of it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from matchmaking import tracking
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.base.escape import say
from matchmaking.base.records import RecordError, read_record
from matchmaking.base.settings import EXPERIMENT
from matchmaking.experiments.definition import NAME, Definition

NAME_TAG, SHA256_TAG = "experiment_name", "experiment_sha256"
# what it said last
VERDICT_TAG = "experiment_verdict"
# and of which verdict the pipeline has told people
TOLD_TAG = "experiment_told"
# that it is over, whoever knows of it: the verdict that ended it, or that a person did, who may have said why
ENDED_TAG, BY_HAND, REASON_TAG = "experiment_ended", "by hand", "experiment_end_reason"
FILE = "definition.json"
RESULTS, PAGE = "experiment.json", "experiment.html"
# how the folders of its reports are called among its artifacts, followed by the time
REPORTS = "report-"


def read_definition(path: Path) -> Definition:
    """Reads a definition from YAML or JSON.

    Raises:
        InputError: the file can't be read, or isn't a definition; the first thing that is wrong is named.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return read_record(Definition, json.dumps(found, default=str), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the definition can't be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{path}: not YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    except RecordError as error:
        raise InputError(str(error)) from None


def record(definition: Definition) -> str:
    """Records a definition; the same one again changes nothing, but for what an attempt that was cut off left out.

    Returns:
        The id of its MLflow run.

    Raises:
        RefusedError: its start is over, or another experiment of this name is recorded.
        TrackingError: the server can't be reached.
    """
    known = _runs(definition.name)
    if known:
        run_id, sha256 = known[0]
        if sha256 != definition.sha256:
            raise RefusedError(
                f"{definition.name} is recorded with another definition ({sha256[:12]}): what has changed is another "
                "experiment; give it another name, and so another salt"
            )
        with tracking.told("can't look for the definition"):
            open_still = tracking.client().get_run(run_id).info.status == "RUNNING"
        if open_still or not _there(run_id):
            # its sha256, which was fixed in time, says that it is the same
            _store(run_id, definition)
        return run_id
    if definition.start <= datetime.now(UTC):
        raise RefusedError(
            f"{definition.name} starts at {definition.start:%Y-%m-%dT%H:%M:%SZ}, which is over: a definition is fixed "
            "before the first exposure; give a later start"
        )
    # not called after the pipeline that reads it: its runs are looked for by that
    run_id, _ = tracking.start_run("definition", tracking.now(), definition.sha256, {"experiment": definition.name})
    _store(run_id, definition)
    return run_id


def _store(run_id: str, definition: Definition) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_text(definition.canonical, encoding="utf-8")
        tracking.finish_run(
            run_id,
            params={"definition_sha256": definition.sha256},
            metrics={},
            history=None,
            tags={NAME_TAG: definition.name, SHA256_TAG: definition.sha256},
            artifacts=Path(folder),
        )


def _there(run_id: str) -> bool:
    """Whether the definition is among the run's artifacts."""
    with tracking.told("can't look for the definition"):
        return FILE in [one.path for one in tracking.client().list_artifacts(run_id)]


def under_way(now: pd.Timestamp) -> tuple[str, Definition] | None:
    """The experiment that is under way: of those that have begun and haven't ended, the one that began last.

    One has ended when the pipeline has kept a verdict that says so, or `end` has; it is read by its name from then on.
    One whose definition can't be read is named, and passed over; so are others that are under way.

    Args:
        now: UTC.

    Raises:
        TrackingError: the server can't be reached.
    """
    begun = []
    for run in _search(f"tags.{NAME_TAG} LIKE '%'"):
        if not has_ended(run.data.tags):
            try:
                one = recorded(run.data.tags[NAME_TAG])
            except RefusedError as error:
                say(f"{error}; it is passed over")
                continue
            if pd.Timestamp(one[1].start) <= now:
                begun.append(one)
    newest = max(begun, key=lambda one: one[1].start, default=None)
    for _, other in begun:
        if newest and other.name != newest[1].name:
            say(f"{other.name} is under way too, and isn't read; `mlops experiment end {other.name}` ends it")
    return newest


def has_ended(tags: Mapping[str, str]) -> bool:
    """Whether an experiment is over, by its run's tags; earlier versions only say that everybody was told."""
    verdict = tags.get(VERDICT_TAG, "go on")
    return ENDED_TAG in tags or (verdict != "go on" and tags.get(TOLD_TAG) == verdict)


def is_recorded(name: str) -> bool:
    """Whether there is an experiment of this name.

    Raises:
        TrackingError: the server can't be reached.
    """
    return bool(_runs(name))


def is_over(name: str) -> bool:
    """Whether the experiment of a name is over.

    Raises:
        TrackingError: the server can't be reached.
    """
    return any(has_ended(run.data.tags) for run in runs_of(name)[:1])


def ended_as(run_id: str) -> str:
    """The verdict that an experiment has ended by, or that a person ended it; empty while it is under way.

    Raises:
        TrackingError: the server can't be reached.
    """
    with tracking.told("can't read the experiment"):
        tags = tracking.client().get_run(run_id).data.tags
    return str(tags.get(ENDED_TAG) or tags[VERDICT_TAG]) if has_ended(tags) else ""


def end(name: str, reason: str) -> None:
    """Ends an experiment that was given up: the pipeline looks for it no more. What was kept of it stays.

    Args:
        name: the experiment's.
        reason: a sentence, for those who read it.

    Raises:
        InputError: there is none of this name.
        RefusedError: it has ended.
        TrackingError: the server can't be reached.
    """
    # not `recorded`: one whose definition can't be read is to be ended, too
    known = _runs(name)
    if not known:
        raise InputError(f"no experiment '{name}' is recorded")
    run_id, _ = known[0]
    with tracking.told("can't read the experiment"):
        tags = tracking.client().get_run(run_id).data.tags
    if has_ended(tags):
        raise RefusedError(f"experiment {name} has ended: {tags.get(ENDED_TAG) or tags[VERDICT_TAG]}")
    tracking.tag_run(run_id, {ENDED_TAG: BY_HAND, REASON_TAG: " ".join(reason.split())})


def recorded(name: str) -> tuple[str, Definition]:
    """The run of an experiment, and its definition.

    Raises:
        InputError: there is none of this name.
        RefusedError: the definition isn't the one whose sha256 was recorded, or is missing.
        TrackingError: the server can't be reached.
    """
    known = _runs(name)
    if not known:
        raise InputError(f"no experiment '{name}' is recorded; `mlops experiment start` records one")
    run_id, sha256 = known[0]
    if not _there(run_id):
        raise RefusedError(
            f"the definition of {name} is missing in its record, which was cut off; `mlops experiment start` with the "
            "same definition completes it"
        )
    with tempfile.TemporaryDirectory() as folder, tracking.told("can't read the experiment"):
        path = Path(tracking.client().download_artifacts(run_id, FILE, folder))
        found = read_record(Definition, path.read_text(encoding="utf-8"), f"the definition of {name}")
    if found.sha256 != sha256:
        raise RefusedError(f"the definition of {name} isn't the one that was recorded ({sha256[:12]})")
    return run_id, found


def keep(run_id: str, folder: Path, stamp: str = "") -> None:
    """Stores a report with the experiment, and today's verdict as a tag; a second time changes nothing.

    What was cut off has its numbers at least: the page comes after them.

    Args:
        run_id: the definition's run.
        folder: with `RESULTS`, and the page; a folder of its own in the artifacts gets them.
        stamp: UTC, as in 20260131T235959Z; what the artifacts' folder is called by, now for none.

    Raises:
        RefusedError: it looks at a day to come.
        TrackingError: the server or its artifact store can't be reached.
    """
    said = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if said.get("to_come"):
        raise RefusedError(f"day {said['day']} isn't over: a look at a day to come is kept nowhere")
    stamp = stamp or tracking.now()
    at = int(datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)
    with tracking.told("can't record the report"):
        tracking.client().log_artifact(run_id, str(folder / RESULTS), f"{REPORTS}{stamp}")
        tracking.client().log_artifacts(run_id, str(folder), f"{REPORTS}{stamp}")
        for name in ("difference", "low", "high"):
            if said.get(name) is not None:
                tracking.client().log_metric(run_id, name, said[name], timestamp=at, step=said["day"])
    tracking.tag_run(run_id, {VERDICT_TAG: said["verdict"]})


def _runs(name: str) -> list[tuple[str, str]]:
    """The runs of an experiment's name, the first one first, each with the definition's sha256."""
    return [(str(run.info.run_id), str(run.data.tags.get(SHA256_TAG, ""))) for run in runs_of(name)]


def runs_of(name: str) -> list[Any]:
    """The runs of an experiment's name, the first one first; none of what is no name.

    Raises:
        TrackingError: the server can't be reached.
    """
    return _search(f"tags.{NAME_TAG} = '{name}'") if re.fullmatch(NAME, name) else []


def ended_runs() -> list[Any]:
    """The runs of the experiments that a verdict of the pipeline has ended.

    Raises:
        TrackingError: the server can't be reached.
    """
    return [run for run in tagged_runs(ENDED_TAG) if run.data.tags[ENDED_TAG] != BY_HAND]


def tagged_runs(tag: str) -> list[Any]:
    """The runs of the experiments that have a tag, the first one first.

    Raises:
        TrackingError: the server can't be reached.
    """
    return _search(f"tags.{tag} LIKE '%'")


def newest_report(run_id: str) -> dict[str, Any] | None:
    """The numbers of the newest report that was kept; None where there is none, or it is damaged.

    Raises:
        TrackingError: the server or its artifact store can't be reached.
    """
    client = tracking.client()
    with tempfile.TemporaryDirectory() as local, tracking.told("can't read the experiment's reports"):
        for folder in report_folders(run_id)[::-1]:
            path = Path(client.download_artifacts(run_id, f"{folder}/{RESULTS}", local))
            try:
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return None
            return found
    return None


def report_folders(run_id: str) -> list[str]:
    """The folders of its reports, the first one first; those whose upload broke off before the numbers are left out.

    Raises:
        TrackingError: the server or its artifact store can't be reached.
    """
    client = tracking.client()
    with tracking.told("can't read the experiment's reports"):
        folders = [str(one.path) for one in client.list_artifacts(run_id) if one.is_dir]
        return sorted(
            folder
            for folder in folders
            if folder.startswith(REPORTS)
            and f"{folder}/{RESULTS}" in [one.path for one in client.list_artifacts(run_id, folder)]
        )


def _search(condition: str) -> list[Any]:
    """The runs that hold definitions, the first one first."""
    order = ["attributes.start_time", "attributes.run_id"]
    found: list[Any] = []
    token = None
    with tracking.told("can't look for the experiment"):
        home = tracking.client().get_experiment_by_name(EXPERIMENT)
        while home is not None:
            page = tracking.client().search_runs([home.experiment_id], condition, order_by=order, page_token=token)
            found += page
            if not (token := page.token):
                break
    return found
