"""What becomes of a reading: kept with the experiment's definition, and told to people once when it comes to an end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matchmaking import tracking
from matchmaking.experiments.record import RESULTS, TOLD_TAG, keep, recorded
from matchmaking.tracking import notify

# of apprise's own kinds
KINDS = {"better": "success", "worse": "warning", "harmful": "failure", "unreadable": "failure"}
STOP = "`mlops experiment stop` gives everybody the champion again; on a cluster EXPERIMENT_MODE=off does."


def keep_reading(folder: Path, stamp: str) -> str:
    """Keeps a report with the definition of its experiment, and makes its verdict the experiment's.

    Args:
        folder: with `RESULTS`, and the page.
        stamp: the run's, UTC; a step that is tried again writes the same.

    Returns:
        The id of the definition's run.

    Raises:
        RefusedError: the definition isn't the one that was recorded.
        TrackingError: MLflow can't be reached.
    """
    run_id, _ = recorded(json.loads((folder / RESULTS).read_text(encoding="utf-8"))["experiment"])
    keep(run_id, folder, stamp)
    return run_id


def tell_verdict(run_id: str, said: dict[str, Any], links: Sequence[str]) -> None:
    """Tells of a verdict that ends an experiment, each address once; who wasn't reached is told by the next reading.

    Args:
        run_id: the definition's run, which remembers who has been told of what.
        said: what is in `RESULTS`.
        links: where people read more, a line each.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    verdict = said["verdict"]
    with tracking.told("can't look for who has been told"):
        known = str(tracking.client().get_run(run_id).data.tags.get(TOLD_TAG, ""))
    of, _, keys = known.partition(":")
    if verdict == "go on" or known == verdict:
        return
    # of those that have heard of it, where not everybody was reached the last time
    heard = set(keys.split(",")) if of == verdict else set()
    hearing = [each for each in notify.addresses() if each.hears_notices]
    lines = [said["reason"], *(f"{label}: {value}" for label, value in said["results"])]
    lines += [STOP] if verdict in ("harmful", "unreadable", "worse") else []
    title = f"[experiment] {said['experiment']}: {said['headline']}"
    to = [each for each in hearing if each.key not in heard]
    heard |= notify.tell(to, KINDS.get(verdict, "info"), title, "\n".join([*lines, *links])) if to else set()
    missing = {each.key for each in hearing} - heard
    tracking.tag_run(run_id, {TOLD_TAG: f"{verdict}:{','.join(sorted(heard))}" if missing else verdict})
