"""A decision as a page for people: what speaks for it, what against it, and what more rows would tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from matchmaking.base.escape import for_markdown, visible
from matchmaking.evidence.inference import BOOTSTRAP, NORMAL


def explain(decision: dict[str, Any]) -> str:
    """The decision as a Markdown page: the verdict, every test, and what would change the verdict."""
    d, primary = decision, decision["primary"]
    lines = [f"# Verdict: {d['verdict']}", "", *(f"- {for_markdown(reason)}" for reason in d["reasons"]), ""]
    lines += [
        f"{d['rows']:,} held-out rows, {d['positives']:,} of them matches{_repeats(d)}; {_way(d)} seed {d['seed']}.",
        "",
    ]
    if primary["production"] is None:
        return "\n".join([*lines, f"The candidate's {primary['metric']} is {primary['candidate']:.4f}.", ""])
    lines += [
        "Improvements are signed so that positive is better. `p` is that of no improvement for the primary "
        "metric, and that of no harm (Holm-adjusted) for a guardrail. A slice that is `inconclusive` or has "
        "`too few` matches is reported and does not block. `calibration` is the distance of the mean probability from "
        "the match rate. Repeated pairs count as one match.",
        "",
        "| test | matches | production | candidate | improvement | interval | required | p | result |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        _row(
            f"**{primary['metric']}** (primary)",
            d["distinct"]["positives"],
            primary,
            f">= {primary['min_effect']:g}",
            primary["p_value"],
        ),
        *(
            _row(for_markdown(visible(t["name"])), t["distinct"], t, f"> -{t['margin']:g}", t["p_harm_holm"])
            for t in d["guardrails"]
        ),
        "",
        *(
            f"{more:,} more values of {c} have too few matches and are not listed.\n"
            for c, more in d["unlisted"].items()
        ),
        f"Expected calibration error {d['ece']['production']:.4f} -> {d['ece']['candidate']:.4f}: told, not tested, "
        "since what it sums is never negative, and so is biased.",
        "",
        "## What would change the verdict",
        "",
        *(f"- {for_markdown(change)}" for change in _changes(d)),
        "",
    ]
    return "\n".join(lines)


def _way(decision: dict[str, Any]) -> str:
    # those of earlier versions don't say it: they always resampled
    return "bootstrap" if decision.get("intervals") in (None, BOOTSTRAP) else f"intervals by the {NORMAL},"


def _repeats(decision: dict[str, Any]) -> str:
    """How many pairs there really are, where some are repeated."""
    distinct = decision["distinct"]
    if distinct["rows"] == decision["rows"]:
        return ""
    return (
        f" ({distinct['rows']:,} distinct pairs, {distinct['positives']:,} of them matches; a pair's repetitions are "
        "one piece of evidence)"
    )


def _row(name: str, positives: int, test: dict[str, Any], required: str, p: float | None) -> str:
    low, high = test["ci"]
    numbers = f"{test['production']:.4f} | {test['candidate']:.4f} | {test['improvement']:+.4f}"
    interval = f"{low:+.4f} to {high:+.4f} ({100 * test['confidence']:g}%)"
    p_value = "" if p is None else f"{p:.2g}"
    return f"| {name} | {positives} | {numbers} | {interval} | {required} | {p_value} | {test['result']} |"


def _changes(decision: dict[str, Any]) -> list[str]:
    """What the tests in the way would need; for a promotion, what comes nearest to standing in the way."""
    policy, primary, guardrails = decision["policy"], decision["primary"], decision["guardrails"]
    overall = [t for t in guardrails if t["name"] in policy["guardrails"]["margins"]]
    if decision["verdict"] == "promote":
        nearest = sorted(overall, key=lambda t: t["ci"][0] + t["margin"])[:1]
        return [
            f"{primary['metric']}: its interval reaching down to zero (now {primary['ci'][0]:+.4f})",
            *(f"{t['name']}: a lower end at or below -{t['margin']:g} (now {t['ci'][0]:+.4f})" for t in nearest),
        ]
    if decision["distinct"]["positives"] < policy["bootstrap"]["min_positives"]:
        return [f"held-out rows with at least {policy['bootstrap']['min_positives']} distinct matches"]
    changes = [f"the serving contract: {what}" for what in decision.get("contract", {}).get("failed", [])]
    changes += [
        f"{visible(t['name'])}: a loss below {t['margin']:g} (now {-t['improvement']:.4f})"
        for t in guardrails
        if t["result"] == "harm"
    ]
    if primary["result"] != "improved":
        effect = primary["min_effect"]
        rows = _rows_needed(primary, 0.0, decision["rows"]) if primary["improvement"] >= effect else ""
        changes.append(f"{primary['metric']}: a gain of {effect:g} or more, its interval above zero{rows}")
    changes += [
        f"{t['name']}: an interval above -{t['margin']:g}{_rows_needed(t, -t['margin'], decision['rows'])}"
        for t in overall
        if t["result"] == "inconclusive"
    ]
    return changes


def _rows_needed(test: dict[str, Any], bound: float, rows: int) -> str:
    """The holdout on which the same estimate would pass: intervals shrink as 1 / sqrt(rows)."""
    distance = test["improvement"] - bound
    if distance <= 0:
        return "; the estimate itself is beyond it"
    needed = rows * ((test["improvement"] - test["ci"][0]) / distance) ** 2
    return f"; the same estimate would show it on about {int(np.ceil(needed / 100) * 100):,} held-out rows"
