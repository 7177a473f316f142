"""From the logs to what is compared: each client once, in the arm it was assigned to, with what came of it.

A client counts from the day on which everything about it is in: its exposures of `window_days` from the first, and the
outcomes that came until `label_delay_days` after those. So each is one draw, nothing of it changes later, and the looks
of an experiment that is evaluated again are the looks that were.

The exposure log's columns are `time` (UTC), `unit` (the client's id), `variant`, `model` (sha256), `request`, `status`
and `latency_ms`, and where they are there `mode` and `answered_by`; the outcomes' `unit`, `time` and `match`, and
`request` where it is known.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from matchmaking.experiments.definition import VARIANTS, Definition

DAY = pd.Timedelta(days=1)


def in_experiment(exposures: pd.DataFrame, definition: Definition, now: pd.Timestamp) -> pd.DataFrame:
    """The exposures of clients in either arm, from the start until now, in order of time; `day` counts from 0."""
    start = pd.Timestamp(definition.start)
    exposures = of_test(exposures)
    mine = exposures["unit"].notna() & (exposures["unit"] != "") & exposures["variant"].isin(VARIANTS)
    rows = exposures[mine & (exposures["time"] >= start) & (exposures["time"] <= now)]
    rows = rows.sort_values("time", kind="stable", ignore_index=True)
    return rows.assign(day=((rows["time"] - start) // DAY).astype(int))


def of_test(exposures: pd.DataFrame) -> pd.DataFrame:
    """Those of the A/B test: a shadow's requests were all answered by the champion."""
    return exposures[exposures["mode"] == "ab"] if "mode" in exposures else exposures


def client_outcomes(
    exposures: pd.DataFrame,
    outcomes: pd.DataFrame,
    definition: Definition,
    now: pd.Timestamp,
    scores: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Each client of whom everything is in, by intention to treat.

    The arm is that of the first exposure, whatever came after. A pair without an outcome by the client's deadline
    counts as no match: an outcome that is missing may be missing because of the model.

    Args:
        exposures: the log.
        outcomes: the log; see `outcomes_in_time`.
        definition: the experiment.
        now: what is later hasn't happened yet.
        scores: the champion's own score of the pairs, of both arms' clients: `request`, `score`.

    Returns:
        A row a client, in the order in which they count: `unit`, `challenger` (bool), `first` (its first exposure),
        `look` (the day at whose end it counts first, from 0), `pairs` (answered requests in its window), `matches`,
        `labelled` (outcomes that came), and `score` (the sum of the champion's over its pairs; NaN where one is
        unknown, or all are). Clients with more than `bot_pairs` are not in it.
    """
    seen = in_experiment(exposures, definition, now)
    start = pd.Timestamp(definition.start)
    window = pd.Timedelta(days=definition.window_days)
    wait = window + pd.Timedelta(days=definition.label_delay_days)
    clients = seen.groupby("unit", sort=False).agg(first=("time", "first"), variant=("variant", "first"))
    clients = clients[clients["first"] + wait <= now]
    first = seen["unit"].map(clients["first"])
    asked = seen[(seen["time"] <= first + window) & _answered(seen)]
    answered = asked.groupby("unit").size()
    came = outcomes_in_time(asked, outcomes, clients["first"], definition)
    of_client = came.groupby("unit")["match"]
    found = pd.DataFrame(
        {
            "challenger": clients["variant"] == VARIANTS[1],
            "first": clients["first"],
            "look": np.ceil((clients["first"] + wait - start) / DAY).astype(int) - 1,
            "pairs": answered.reindex(clients.index, fill_value=0),
            "matches": of_client.sum().reindex(clients.index, fill_value=0).astype(int),
            "labelled": of_client.size().reindex(clients.index, fill_value=0),
            "score": np.nan,
        },
        index=clients.index,
    )
    if scores is not None:
        known = asked["request"].map(scores.drop_duplicates("request").set_index("request")["score"])
        # one unknown score makes the client's unknown: skipna would make it too low
        sums = known.groupby(asked["unit"]).agg(lambda one: one.sum(skipna=False))
        found["score"] = sums.reindex(clients.index)
    found = found[found["pairs"] <= definition.bot_pairs]
    return found.rename_axis("unit").reset_index().sort_values(["look", "first"], kind="stable", ignore_index=True)


def outcomes_in_time(
    asked: pd.DataFrame, outcomes: pd.DataFrame, first: pd.Series, definition: Definition
) -> pd.DataFrame:
    """The outcomes that count: from a client's first exposure to its deadline, of what it asked about in its window.

    A request has one: where it is there more often, the last that came in time, and of two at once the match. Each
    outcome without a request counts.

    Args:
        asked: the answered exposures of the clients' windows.
        outcomes: the log; those with a `request` that isn't among these don't count.
        first: each client's first exposure, by `unit`.
        definition: the experiment.
    """
    wait = pd.Timedelta(days=definition.window_days) + pd.Timedelta(days=definition.label_delay_days)
    came = outcomes[outcomes["unit"].isin(first.index) & outcomes["match"].notna()]
    since = came["unit"].map(first)
    came = came[(came["time"] >= since) & (came["time"] <= since + wait)]
    if "request" in came:
        came = came[came["request"].isna() | came["request"].isin(asked["request"])]
        came = came.sort_values(["time", "match"], kind="stable")
        came = came[came["request"].isna() | ~came.duplicated(["unit", "request"], keep="last")]
    return came


def _answered(seen: pd.DataFrame) -> pd.Series:
    """Whether the caller got an answer: its arm's, or the champion's in the challenger's place."""
    own = seen["status"] == 200
    if "answered_by" not in seen:
        return own
    return own | (seen["answered_by"].isin(VARIANTS) & (seen["answered_by"] != seen["variant"]))


def client_requests(exposures: pd.DataFrame, definition: Definition, now: pd.Timestamp) -> pd.DataFrame:
    """Each client's first requests, for the guardrails that need no outcome.

    Returns:
        A row a client, in the order in which they count: `unit`, `challenger`, `look` (the day at whose end the window
        of `guardrails.window_days` is over, from 0), `requests`, `errors` (status 500 and above, or none), `answered`
        and `log_latency` (the sum over the answered of the latency's natural logarithm, in ms).
    """
    seen = in_experiment(exposures, definition, now)
    start = pd.Timestamp(definition.start)
    window = pd.Timedelta(days=definition.guardrails.window_days)
    clients = seen.groupby("unit", sort=False).agg(first=("time", "first"), variant=("variant", "first"))
    clients = clients[clients["first"] + window <= now]
    rows = seen[seen["time"] <= seen["unit"].map(clients["first"]) + window]
    sums = _went(rows).groupby(rows["unit"]).sum()
    found = pd.DataFrame(
        {
            "challenger": clients["variant"] == VARIANTS[1],
            "look": np.ceil((clients["first"] + window - start) / DAY).astype(int) - 1,
            "first": clients["first"],
            "requests": rows.groupby("unit").size().reindex(clients.index, fill_value=0),
        },
        index=clients.index,
    ).join(sums)
    found = found.rename_axis("unit").reset_index()
    return found.sort_values(["look", "first"], kind="stable", ignore_index=True).drop(columns="first")


def client_days(exposures: pd.DataFrame, definition: Definition, now: pd.Timestamp) -> pd.DataFrame:
    """Each client's requests of each day since the start, for the guardrails of all days.

    Returns:
        A row a client and day, in order of the days and, in each, of the clients' first requests: `unit`, `challenger`
        (by its first exposure of all), `day` (from 0), `requests`, `errors`, `answered` and `log_latency`, as in
        `client_requests`.
    """
    seen = in_experiment(exposures, definition, now)
    variant = seen.groupby("unit", sort=False)["variant"].first()
    found = _went(seen).assign(requests=1).groupby([seen["day"], seen["unit"]], sort=False).sum().reset_index()
    found["challenger"] = (found["unit"].map(variant) == VARIANTS[1]).to_numpy()
    # a request at the very end of the last full day
    last = int((now - pd.Timestamp(definition.start)) // DAY) - 1
    return found[found["day"] <= last].reset_index(drop=True)


def _went(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether each request failed, whether it was answered, and the logarithm of what that took."""
    failed = rows["status"].isna() | (rows["status"] >= 500) | (rows["status"] < 100)
    answered = ~failed & rows["latency_ms"].notna()
    # a latency of 0 ms is one below the log's resolution
    logs = np.log(rows["latency_ms"].clip(lower=0.1)).where(answered, 0.0)
    return pd.DataFrame({"errors": failed, "answered": answered, "log_latency": logs})
