"""What a run says of the traffic of challengers that do harm: as its report step knows it, and once it has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matchmaking import tracking
from matchmaking.base.files import written_whole
from matchmaking.experiments.page import say_on_page
from matchmaking.experiments.record import RESULTS
from matchmaking.experiments.stop import Stop
from matchmaking.reporting.summary import Summary

PAGES = ("report.html", "report.txt", RESULTS)


def traffic(name: str | None, stops: Sequence[Stop]) -> dict[str, Any]:
    """What there is to say, for `summary["experiment"]`: `stop` in words, `served` the names of those that are served.

    Args:
        name: the experiment that was read; None for none.
        stops: what became of it, and of others that were tried again.
    """
    if not stops:
        return {}
    ours = [each.said for each in stops if each.experiment == name]
    others = [f"{each.experiment}: {each.said}" for each in stops if each.experiment != name]
    return {"stop": " ".join([*ours, *others]), "served": [each.experiment for each in stops if each.served]}


def tell_stops(folder: Path, summary: Summary, stops: Sequence[Stop]) -> Summary:
    """Says in a run's folder, and in its MLflow record, what came of stopping once its steps had ended.

    Args:
        folder: the run's, with the reports as far as they were written.
        summary: the run's.
        stops: what this run has tried, outside of its steps.

    Returns:
        The summary that says so; it isn't written.

    Raises:
        TrackingError: MLflow can't be reached; the folder is as it is to be.
    """
    from matchmaking.reporting import html as as_html
    from matchmaking.reporting import text as as_text

    said = summary.experiment
    if not stops or not said:
        return summary
    name = said.get("experiment")
    found = traffic(name, stops)
    if said.get("stop") and name not in [each.experiment for each in stops]:
        # nothing was tried here: it is as its step has said
        found["stop"] = f"{said['stop']} {found['stop']}"
        found["served"] = [*([name] if name in said.get("served", []) else []), *found["served"]]
    summary = summary.model_copy(update={"experiment": said | found})
    texts = {"report.txt": as_text.text_report(summary.as_dict()), RESULTS: json.dumps(summary.experiment, indent=1)}
    if not say_on_page(folder / "report.html", found["stop"], served=bool(found["served"])):
        texts["report.html"] = as_html.html_report(summary.as_dict())
    for file, text in texts.items():
        with written_whole(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if summary.run_id:
        with tracking.told("can't record what became of the challenger's traffic"):
            for page in PAGES:
                tracking.client().log_artifact(summary.run_id, str(folder / page))
    return summary
