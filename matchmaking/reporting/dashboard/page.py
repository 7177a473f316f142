"""The page: words by Jinja, charts by its script; one file that asks nobody for anything.

Its policy lets the two scripts of its own run, known by their hashes, and nothing else: what stands in a name or a
reason could not run even if it came through the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from matchmaking.base.escape import for_terminal
from matchmaking.reporting.dashboard.assets import load
from matchmaking.reporting.dashboard.data import page_data
from matchmaking.reporting.dashboard.now import EARLIER, day, name_of, summarise
from matchmaking.reporting.dashboard.records import MOST_RUNS, Records

TEMPLATES = Path(__file__).parents[1] / "templates"
NEWEST = 10
SIGNS = {"good": "✓", "attention": "▲", "bad": "✕", "plain": "●"}


def dashboard_page(records: Records, *, served: bool = False) -> str:
    """The whole page as HTML.

    Args:
        records: what is known.
        served: whether it is current when it is loaded again.

    Raises:
        NotThereError: the charts' script can neither be found nor made.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    assets = load()
    script = (TEMPLATES / "dashboard.js").read_text(encoding="utf-8")
    data = page_data(records)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: for_terminal(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    live = data["live"] or {"past": [], "findings": [], "notes": []}
    return environment.get_template("dashboard.html.j2").render(
        style=Markup((TEMPLATES / "dashboard.css").read_text(encoding="utf-8")),
        script_hashes=Markup(" ".join(f"'sha256-{_hash(text)}'" for text in (assets.library, script))),
        library=Markup(assets.library),
        script=Markup(script),
        records=_json(data),
        charts=_json(assets.specifications),
        made=f"{day(records.now)} {records.now:%H:%M}",
        made_iso=records.now.isoformat(timespec="seconds"),
        refresh=served,
        now=summarise(records),
        signs=SIGNS,
        earlier=EARLIER,
        past=[_compared(one) for one in live["past"] if one["windows"]],
        tolerance=live["past"][0]["tolerance"] if live["past"] else 0.02,
        series=records.followed,
        findings=live["findings"],
        live_notes=live["notes"],
        candidates=_candidates(records, data),
        failures=_failures(records),
        more_runs=records.more_runs,
        most_runs=MOST_RUNS,
    )


def _json(value: Any) -> Any:
    """JSON within a script element: no text in it can end the element."""
    from markupsafe import Markup

    how: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    try:
        text = json.dumps(value, **how)
    except ValueError:
        # seldom, and looking at each of half a million numbers takes longer than writing them
        text = json.dumps(_finite(value), **how)
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _finite(value: Any) -> Any:
    """The same without numbers that JSON doesn't have: MLflow keeps NaN and infinity, a page shows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _compared(past: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": name_of(past["metric"]),
        "windows": past["windows"],
        "within": f"{past['within']:.0%}",
        "mean_error": f"{past['mean_error']:+.4f}",
        "covered": f"{past['covered']:.0%}",
    }


def _candidates(records: Records, data: dict[str, Any]) -> list[dict[str, str]]:
    """The newest retrainings as a table's rows, newest first."""
    found = data["candidates"]
    series = found["metrics"].get(found["primary"], {})
    rows = []
    for place in [*range(len(found["run"]))][::-1][:NEWEST]:
        run = records.runs[found["run"][place]]
        value, low, high = (series[key][place] if series else None for key in ("difference", "low", "high"))
        rows.append(
            {
                "url": run.url,
                "day": day(run.start),
                "verdict": run.tags.get("verdict", "") or "none",
                "difference": "" if value is None else f"{value:+.4f}",
                "interval": "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}",
                "package": found["package"][place],
            }
        )
    return rows


def _failures(records: Records) -> list[dict[str, str]]:
    failed = [run for run in records.runs if run.status in ("FAILED", "KILLED")][-NEWEST:]
    return [
        {"url": run.url, "name": run.name, "day": day(run.start), "reason": run.reason or "no reason is recorded"}
        for run in reversed(failed)
    ]
