"""Does the bootstrap's normal approximation say what the bootstrap says, from how many rows on, and in what time?

    python -m benchmarks.influence [--rows 20000 --rows 100000 ...] [--pairs 200] [--json FILE]

Simulated holdouts (`benchmarks.decision`) of a better candidate are judged both ways: standard errors of the gain in
each metric, the ends of its intervals, verdicts. Then A/A pairs: how often the approximation's intervals hold the
truth, which is no difference.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.decision import PRODUCTION_NOISE, simulate
from matchmaking.evidence import influence
from matchmaking.evidence.bootstrap import metric_scorer
from matchmaking.evidence.compare import decide
from matchmaking.evidence.inference import resampled
from matchmaking.evidence.policy import load_policy

CANDIDATE_NOISE = 1.05
# of the intervals whose ends are compared: the policy's widest
TAIL = 0.0025
RESAMPLES = 2_000


def holdout(rows: int, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """Scores of a better candidate on so many rows.

    Args:
        rows: how many.
        kind: `plain`; `ties`, of scores of two digits; `groups`, each pair one to three times; `rare`, where one row
            in 48 is a match, not one in nine.
        rng: what draws.
    """
    models = {"production": PRODUCTION_NOISE, "candidate": CANDIDATE_NOISE}
    if kind == "groups":
        once = simulate(rows // 2, models, rng)
        once["group"] = np.arange(len(once))
        return once.loc[once.index.repeat(rng.integers(1, 4, size=len(once)))].reset_index(drop=True)
    if kind == "rare":
        scores = simulate(round(rows * 1.1), models, rng)
        match = scores["match"] == 1
        few = scores.index[match][: rows // 48]
        return scores.loc[few.union(scores.index[~match])].reset_index(drop=True)
    scores = simulate(rows, models, rng)
    return scores.round({"production": 2, "candidate": 2}) if kind == "ties" else scores


def compare(scores: pd.DataFrame, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Both ways on the same rows: by metric the standard errors of the gain, and how far apart intervals' ends are."""
    match = scores["match"].to_numpy()
    group = scores["group"].to_numpy() if "group" in scores else np.arange(len(scores))
    models = [scores[name].to_numpy() for name in ("production", "candidate")]
    scorers = [metric_scorer(match, p) for p in models]
    values = [{k: float(v[0]) for k, v in score(np.ones((1, len(match)))).items()} for score in scorers]
    begun = time.perf_counter()
    old = resampled(match, group, scorers, resamples, np.random.default_rng(0))
    between = time.perf_counter()
    with everywhere():
        new = influence.normal_draws(match, group, models, values, resamples, np.random.default_rng(1))
    assert new is not None
    seconds = (between - begun, time.perf_counter() - between)
    found = {}
    for name in old:
        gains = [drawn[name][1] - drawn[name][0] for drawn in (old, new)]
        errors = [float(gain.std(ddof=1)) for gain in gains]
        ends = [np.quantile(gain, [TAIL, 1 - TAIL]) for gain in gains]
        found[name] = {
            "errors": errors,
            "ratio": errors[1] / errors[0],
            "ends": ((ends[1] - ends[0]) / errors[0]).tolist(),
        }
    with everywhere():
        approximated = decide(scores, load_policy())
    with everywhere(10**12):
        verdicts = [decide(scores, load_policy())["verdict"], approximated["verdict"]]
    return {"rows": len(scores), "positives": int(match.sum()), "seconds": seconds, "verdicts": verdicts, "by": found}


@contextmanager
def everywhere(most: int = 0) -> Iterator[None]:
    """The approximation for any number of groups above `most`."""
    kept = influence.MOST_RESAMPLED, influence.LEAST_OF_A_CLASS, influence.MOST_OF_ONE
    influence.MOST_RESAMPLED, influence.LEAST_OF_A_CLASS, influence.MOST_OF_ONE = most, 1, 1.0
    try:
        yield
    finally:
        influence.MOST_RESAMPLED, influence.LEAST_OF_A_CLASS, influence.MOST_OF_ONE = kept


def coverage(rows: int, pairs: int) -> dict[str, float]:
    """Of A/A pairs, the share whose approximated intervals hold zero, by test."""
    policy, held = load_policy(), {}
    with everywhere():
        for seed in track(range(pairs), f"A/A pairs of {rows:,} rows"):
            rng = np.random.default_rng([seed, rows])
            scores = simulate(rows, {"production": PRODUCTION_NOISE, "candidate": PRODUCTION_NOISE}, rng)
            decision = decide(scores, policy, seed=seed)
            tests = [t for t in decision["guardrails"] if t["name"] in policy.guardrails.margins]
            for name, test in ((decision["primary"]["metric"], decision["primary"]), *((t["name"], t) for t in tests)):
                stated = f"{name} ({test['confidence']:.1%})"
                held.setdefault(stated, []).append(test["ci"][0] <= 0 <= test["ci"][1])
    return {name: float(np.mean(found)) for name, found in held.items()}


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Held-out rows to compare the two ways at.")] = None,
    pairs: Annotated[int, typer.Option(help="A/A pairs; 0 for none.")] = 200,
    aa_rows: Annotated[int, typer.Option(help="Held-out rows of each A/A pair.")] = 100_000,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Compares the bootstrap with its normal approximation."""
    console, results = Console(), []
    for count in rows or [2_400, 20_000, 100_000, 240_000]:
        for kind in ("plain", "ties", "groups", "rare"):
            found = compare(holdout(count, kind, np.random.default_rng([count, len(kind)])))
            results.append({"kind": kind, **found})
            _show(console, kind, found)
    aa = coverage(aa_rows, pairs) if pairs else {}
    for name, share in aa.items():
        console.print(f"{name}: {share:.1%} of {pairs} A/A intervals hold the truth")
    if out:
        out.write_text(json.dumps({"compared": results, "a_a": {"rows": aa_rows, "pairs": pairs, **aa}}, indent=1))


def _show(console: Console, kind: str, found: dict[str, Any]) -> None:
    old, new = found["seconds"]
    table = Table(
        title=f"{kind}: {found['rows']:,} rows, {found['positives']:,} matches; {old:.1f} s, approximated {new:.2f} s; "
        f"verdicts {' and '.join(found['verdicts'])}",
        title_justify="left",
    )
    for column in ("gain in", "standard error", "approximated", "ratio", "ends off, in errors"):
        table.add_column(column, justify="right")
    for name, one in found["by"].items():
        ends = ", ".join(f"{end:+.2f}" for end in one["ends"])
        table.add_row(name, *(f"{error:.2e}" for error in one["errors"]), f"{one['ratio']:.3f}", ends)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
