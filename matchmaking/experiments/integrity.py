"""Whether an experiment may be read at all: sample ratio mismatch, and what else makes its arms incomparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaln, logsumexp
from scipy.stats import binom

from matchmaking.base.escape import visible
from matchmaking.experiments.assignment import MOST_SHARE
from matchmaking.experiments.definition import CHALLENGERS, VARIANTS, Definition
from matchmaking.experiments.difference import difference, moments
from matchmaking.experiments.sequences import asymptotic_sequence
from matchmaking.experiments.units import DAY, in_experiment, of_test

Floats = npt.NDArray[np.float64]
# clients to which the prior is worth as much, for shares that are far off, off, and hardly off
PRIORS = (1e2, 1e4, 1e6)
# the error of the mismatch test over all looks: it stops an experiment, so it is rare
SRM_ALPHA = 0.001
LABELS_ALPHA = 0.01
# of the clients: fewer in both arms are a nuisance, more a broken assignment
BOTH_ARMS = 0.001
# of the clients: a crawler or two are left out; more mean that ids aren't clients, or that a model makes them ask again
BOTS = 0.001
BOTS_ALPHA = 0.001
EXAMPLES = 5


@dataclass(frozen=True)
class Check:
    """Something about an experiment that was looked at.

    Attributes:
        code: what, as a word that stays the same.
        found: whether it is there.
        stops: whether its being there forbids to read the results.
        count: how many records or clients.
        said: in words, with examples.
        look: the day at whose end it showed first, from 0; None where it has none.
    """

    code: str
    found: bool
    stops: bool
    count: int
    said: str
    look: int | None = None


def ratio_evidence(counts: npt.ArrayLike, shares: Sequence[float], priors: Sequence[float] = PRIORS) -> Floats:
    """The evidence that clients don't come in the shares that they should, as a logarithm; one look is as good as many.

    Source: Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv 2011.03567: the
    Bayes factor of Dirichlet-multinomial against multinomial counts, a martingale where the shares are as they should
    be. Here the mean of several factors, with priors around those shares of different concentration, which is one too.

    Args:
        counts: of each arm's clients, shape (..., arms).
        shares: what they should be, summing to 1.
        priors: concentrations.

    Returns:
        Shape (...); log(1 / alpha) or more, ever, has a probability of at most alpha.
    """
    seen, wanted = np.asarray(counts, dtype=float), np.asarray(shares, dtype=float)
    total = seen.sum(axis=-1)
    factors = []
    for prior in priors:
        start = prior * wanted
        marginal = gammaln(prior) - gammaln(prior + total) + (gammaln(start + seen) - gammaln(start)).sum(axis=-1)
        factors.append(marginal - (seen * np.log(wanted)).sum(axis=-1))
    return np.asarray(logsumexp(factors, axis=0) - np.log(len(factors)))


def check_ratio(exposures: pd.DataFrame, definition: Definition, now: pd.Timestamp) -> Check:
    """Sample ratio mismatch, of clients by the day of their first exposure."""
    first = in_experiment(exposures, definition, now).drop_duplicates("unit")
    days = int(first["day"].max()) + 1 if len(first) else 0
    place = first["day"].to_numpy() * 2 + (first["variant"] == VARIANTS[1]).to_numpy()
    counts = np.cumsum(np.bincount(place, minlength=2 * days).reshape(days, 2), axis=0)
    evidence = ratio_evidence(counts, [1 - CHALLENGERS, CHALLENGERS])
    over = np.flatnonzero(evidence >= -np.log(SRM_ALPHA))
    champion, challenger = counts[-1].tolist() if days else (0, 0)
    odds = f"{champion:,} and {challenger:,} clients, where as many were to be expected"
    return Check(
        "sample-ratio-mismatch",
        bool(len(over)),
        True,
        abs(champion - challenger),
        f"{odds}; evidence {np.exp(min(float(evidence[-1]), 50.0)) if days else 1:.3g} to 1, limit {1 / SRM_ALPHA:g}",
        int(over[0]) if len(over) else None,
    )


def check_integrity(
    exposures: pd.DataFrame,
    outcomes: pd.DataFrame,
    clients: pd.DataFrame,
    definition: Definition,
    now: pd.Timestamp,
    assigned: Callable[[str], str | None] | None = None,
    joins: Callable[[str], float] | None = None,
) -> list[Check]:
    """Everything that is looked at before results are read, in a fixed order.

    Args:
        exposures: the log; where it has a column `service`, that is the version of the service.
        outcomes: the log.
        clients: as `units.client_outcomes` gives them.
        definition: the experiment.
        now: what is later hasn't happened yet.
        assigned: the arm of a client id by the documented function, or None where it is in neither at any share.
        joins: above which share a client is in an arm; left out, all are at once.
    """
    exposures = of_test(exposures)
    seen = in_experiment(exposures, definition, now)
    arms = seen.groupby("unit")["variant"].nunique()
    both = list(arms.index[arms > 1])
    start = pd.Timestamp(definition.start)
    early = exposures[exposures["variant"].isin(VARIANTS) & (exposures["time"] < start) & exposures["unit"].notna()]
    found = [
        check_ratio(exposures, definition, now),
        _check("exposure-before-start", list(early["unit"].unique()), True, "clients were exposed before the start"),
        _check(
            "client-in-both-arms",
            both,
            len(both) > BOTH_ARMS * max(len(arms), 1),
            "clients have been in both arms; each counts in its first",
        ),
    ]
    units = pd.Series(arms.index, dtype=object)
    if assigned is not None:
        should = units.map(assigned)
        is_now = seen.drop_duplicates("unit").set_index("unit")["variant"].reindex(units).to_numpy()
        wrong = list(units[(should != is_now).to_numpy()])
        found.append(_check("not-as-assigned", wrong, True, "clients aren't in the arm that the salt assigns them"))
        # what was asked before the start may have its outcome until then; and what comes after the last exposure may
        # have been asked of a gateway that was stopped
        end = min(exposures["time"].max(), now) if len(exposures) else start
        late = outcomes[(outcomes["time"] > start + definition.label_delay_days * DAY) & (outcomes["time"] <= end)]
        rest = late[late["unit"].notna() & ~late["unit"].isin(exposures["unit"])].groupby("unit", sort=False)["time"]
        asked = rest.max() - definition.label_delay_days * DAY
        reached = _ramp_up(exposures, joins)
        lost = [
            str(unit)
            for unit, since in asked.items()
            if assigned(str(unit)) is not None and (joins is None or joins(str(unit)) <= reached(since))
        ]
        found.append(
            _check("outcome-without-exposure", lost, True, "clients in the arms have outcomes, and no exposure")
        )
    models = seen.groupby("variant")["model"].agg(lambda one: sorted(set(one.dropna())))
    expected = {"champion": definition.champion, "challenger": definition.challenger}
    other = [f"{arm}: {model}" for arm, many in models.items() for model in many if model != expected[str(arm)]]
    found.append(_check("other-model", other, True, "models answered that aren't those of the definition"))
    if "service" in seen:
        versions = sorted(map(str, seen["service"].dropna().unique()))
        found.append(
            _check("service-changed", versions if len(versions) > 1 else [], True, "versions of the service answered")
        )
    window = seen[seen["time"] <= seen["unit"].map(seen.groupby("unit")["time"].min()) + definition.window_days * DAY]
    counts = window.groupby("unit").size()
    bots = list(counts.index[counts > definition.bot_pairs])
    # of few clients one is more than a thousandth, and no evidence that of many it would be
    many = bool(binom.sf(len(bots) - 1, len(counts), BOTS) < BOTS_ALPHA)
    found.append(_check("bot", bots, many, "clients ask like programs, and are left out of both arms"))
    found.append(check_labels(clients, definition))
    return found


def _ramp_up(exposures: pd.DataFrame, joins: Callable[[str], float] | None) -> Callable[[Any], float]:
    """The share that had been reached by a time, in percent: at least that of the outermost client exposed by then."""
    if joins is None:
        return lambda _: MOST_SHARE
    first = exposures[exposures["variant"].isin(VARIANTS) & exposures["unit"].notna()].sort_values("time")
    first = first.drop_duplicates("unit")
    shares = np.maximum.accumulate([0.0, *first["unit"].map(joins)])
    times = pd.DatetimeIndex(first["time"])
    return lambda when: float(shares[times.searchsorted(when, side="right")])


def check_labels(clients: pd.DataFrame, definition: Definition) -> Check:
    """Whether outcomes arrive as often in one arm as in the other: labelled pairs by pairs asked about."""
    looks = int(clients["look"].max()) + 1 if len(clients) else 0
    sums = moments(
        clients["challenger"].to_numpy(dtype=bool),
        clients["look"].to_numpy(dtype=int),
        looks,
        (clients["labelled"].to_numpy(dtype=float), clients["pairs"].to_numpy(dtype=float)),
    )
    rates = difference(sums)
    ready = rates.clients.min(axis=1) >= definition.first_look
    low, high = asymptotic_sequence(
        rates.estimate, rates.variance, rates.clients.sum(axis=1), LABELS_ALPHA, definition.planned_clients
    )
    apart = np.flatnonzero(ready & ((low > 0) | (high < 0)))
    said = (
        f"outcomes have come for {rates.champion[-1]:.1%} and {rates.challenger[-1]:.1%} of the pairs"
        if looks and np.isfinite(rates.estimate[-1])
        else "no outcomes yet"
    )
    return Check("labels-arrive-apart", bool(len(apart)), False, 0, said, int(apart[0]) if len(apart) else None)


def lawyer_overlap(pairs: pd.DataFrame) -> dict[str, float]:
    """How much the arms share their lawyers, who have only so much time: a match in one may be missing in the other.

    Where lawyers can't take everyone, a better model fills their time with its own clients and takes them from the
    other arm's; the difference that is measured is then larger than what everyone would gain under that model.

    Args:
        pairs: recommended pairs: `lawyer`, `variant`, and `match` where it is known.

    Returns:
        `lawyers` (recommended in either arm), `common` (share of them in both), `pairs_common` (share of the pairs with
        such a lawyer), and `matches_common` (share of the matches; NaN without any).
    """
    arms = pairs.groupby("lawyer")["variant"].nunique()
    common = pairs["lawyer"].map(arms) > 1
    matched = pairs["match"].fillna(0).astype(bool) if "match" in pairs else pd.Series(False, index=pairs.index)
    return {
        "lawyers": float(len(arms)),
        "common": float((arms > 1).mean()) if len(arms) else float("nan"),
        "pairs_common": float(common.mean()) if len(pairs) else float("nan"),
        "matches_common": float(common[matched].mean()) if matched.any() else float("nan"),
    }


def _check(code: str, examples: list[str], stops: bool, said: str) -> Check:
    shown = ", ".join(visible(str(one)) for one in examples[:EXAMPLES])
    return Check(code, bool(examples), stops, len(examples), f"{len(examples)} {said}: {shown}" if examples else "")
