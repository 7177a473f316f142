"""What must not get worse while an experiment runs: latency, errors, recall by slice. Shown harm stops it by itself.

Each is a one-sided test for harm beyond what is tolerated that may be looked at every day; they share one error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from matchmaking.experiments.definition import CHALLENGERS, Definition
from matchmaking.experiments.difference import difference, moments
from matchmaking.experiments.sequences import asymptotic_radius, betting_sequence

Floats = npt.NDArray[np.float64]
# matches of an arm below which a slice's recall isn't judged
MIN_MATCHES = 25
# clients of each arm before anything is read, and of both for which the bounds are closest: harm should show soon
FIRST, SOON = 50, 2_000


@dataclass(frozen=True)
class Guardrail:
    """One guardrail.

    Attributes:
        name: `latency` and `errors`, of first days; `latency by day` and `errors by day`; `recall <column>=<value>`.
        champion: its value: the typical latency in ms (the geometric mean), the share of failed requests, the recall.
        challenger: the same.
        harm: how much worse the challenger is: the ratio less 1, or the difference.
        at_least: what is shown of that, at the level that holds for all guardrails and looks; -inf before it is read.
        tolerated: what is.
        look: the day at whose end harm was shown first, from 0; None where it is not.
        days: the first and the last day, from 0, that the values are of; None for all.
    """

    name: str
    champion: float
    challenger: float
    harm: float
    at_least: float
    tolerated: float
    look: int | None
    days: tuple[int, int] | None = None

    @property
    def harmed(self) -> bool:
        """Whether harm beyond what is tolerated is shown."""
        return self.look is not None


def harm_bound(
    numerator: Floats,
    denominator: Floats,
    challenger: npt.NDArray[np.bool_],
    look: npt.NDArray[np.intp],
    *,
    alpha: float,
    tuned_at: float,
    first_look: int,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Two arms' ratios at each look, challenger less champion, and its running one-sided lower bound.

    An asymptotic sequence on clients: see `difference.difference` and `sequences.asymptotic_radius`.

    Args:
        numerator: of each client, shape (clients,).
        denominator: of each client.
        challenger: whose it is.
        look: from which look on it counts, from 0.
        alpha: the error over all looks.
        tuned_at: clients at which the bound is closest.
        first_look: clients of each arm before anything is read.

    Returns:
        The champion's ratio, the challenger's, the difference and the bound, each of shape (looks,).
    """
    looks = int(look.max()) + 1 if len(look) else 0
    found = difference(moments(challenger, look, looks, (numerator, denominator)))
    radius = asymptotic_radius(found.clients.sum(axis=1), alpha, tuned_at, one_sided=True)
    ready = (found.clients.min(axis=1, initial=np.inf) >= first_look) & np.isfinite(found.variance)
    low = np.where(ready, found.estimate - radius * np.sqrt(found.variance), -np.inf)
    return found.champion, found.challenger, found.estimate, np.maximum.accumulate(low)


def judge_requests(requests: pd.DataFrame, definition: Definition) -> list[Guardrail]:
    """Latency and errors, each client once by its first requests.

    Latency is compared by the geometric mean: what is typical, which a few requests that hang don't move. Errors are
    rare, so asymptotics are no help: betting on each client's share of failed requests.

    Args:
        requests: as `units.client_requests` gives them.
        definition: the experiment.
    """
    if not len(requests):
        return []
    rules = definition.guardrails
    # the other half of what latency and errors have is that of `daily.judge_days`
    alpha = rules.alpha / 8
    challenger = requests["challenger"].to_numpy(dtype=bool)
    look = requests["look"].to_numpy(dtype=int)
    old, new, gap, low = harm_bound(
        requests["log_latency"].to_numpy(dtype=float),
        requests["answered"].to_numpy(dtype=float),
        challenger,
        look,
        alpha=alpha,
        tuned_at=SOON,
        first_look=FIRST,
    )
    latency = Guardrail(
        "latency",
        float(np.exp(old[-1])),
        float(np.exp(new[-1])),
        float(np.expm1(gap[-1])),
        float(np.expm1(low[-1])),
        rules.slower,
        _first(np.expm1(low) > rules.slower),
    )
    share = (requests["errors"] / requests["requests"]).to_numpy(dtype=float)
    until = np.searchsorted(look, np.arange(look.max() + 1), side="right")
    # one-sided at alpha is the half of two-sided at 2 alpha
    bets = betting_sequence(
        share,
        challenger,
        CHALLENGERS,
        until.tolist(),
        min(2 * alpha, 0.99),
        planned=SOON,
        null=rules.errors,
        grid=401,
    )
    means = [float(share[challenger == arm].mean()) if (challenger == arm).any() else np.nan for arm in (False, True)]
    errors = Guardrail(
        "errors",
        means[0],
        means[1],
        means[1] - means[0],
        float(bets.low[-1]),
        rules.errors,
        _first(bets.above >= -np.log(alpha)),
    )
    return [latency, errors]


def judge_recall(pairs: pd.DataFrame, definition: Definition) -> list[Guardrail]:
    """Recall in each slice: of the pairs that matched, how many the arm's own model had recommended.

    Args:
        pairs: matched pairs of clients whose outcomes are in: `unit`, `challenger`, `look`, `recommended` (bool), and
            the slice columns.
        definition: the experiment.

    Returns:
        One for each slice that the definition names and that has `MIN_MATCHES` in both arms.
    """
    rules = definition.guardrails
    alpha = rules.alpha / 2 / max(sum(map(len, rules.slices.values())), 1)
    found = []
    for column, values in rules.slices.items():
        for value in values:
            part = pairs[pairs[column] == value]
            clients = part.groupby("unit", sort=False).agg(
                challenger=("challenger", "first"),
                look=("look", "first"),
                missed=("recommended", lambda one: float((~one.astype(bool)).sum())),
                matches=("recommended", "size"),
            )
            by_arm = clients.groupby("challenger")["matches"].sum()
            if len(by_arm) < 2 or by_arm.min() < MIN_MATCHES:
                continue
            old, new, gap, low = harm_bound(
                clients["missed"].to_numpy(dtype=float),
                clients["matches"].to_numpy(dtype=float),
                clients["challenger"].to_numpy(dtype=bool),
                clients["look"].to_numpy(dtype=int),
                alpha=alpha,
                tuned_at=SOON,
                first_look=FIRST,
            )
            found.append(
                Guardrail(
                    f"recall {column}={value}",
                    1 - float(old[-1]),
                    1 - float(new[-1]),
                    float(gap[-1]),
                    float(low[-1]),
                    rules.recall,
                    _first(low > rules.recall),
                )
            )
    return found


def _first(over: npt.NDArray[np.bool_]) -> int | None:
    found = np.flatnonzero(over)
    return int(found[0]) if len(found) else None
