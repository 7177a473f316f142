"""The page that explains a decision."""

import numpy as np
import pandas as pd

from matchmaking.base.escape import for_markdown
from matchmaking.evidence.compare import decide
from matchmaking.evidence.explain import explain
from tests.decision_fixtures import POLICY, guardrail, simulate


def test_a_mass_of_small_slices_is_counted_not_listed(better: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    decision = decide(better.assign(location=rng.integers(500, size=len(better))), POLICY)
    listed = [g for g in decision["guardrails"] if g["name"].startswith("recall[location=")]
    assert len(listed) == 20 and {g["result"] for g in listed} == {"too few"}
    values = better.assign(location=np.random.default_rng(0).integers(500, size=len(better)))
    assert decision["unlisted"] == {"location": values.loc[values["match"] == 1, "location"].nunique() - 20}
    assert f"{decision['unlisted']['location']} more values of location" in explain(decision)


def test_the_page_has_the_verdict_first_every_test_and_what_would_change_it(better: pd.DataFrame) -> None:
    for scores, verdict in (
        (better, "promote"),
        (simulate(rows=2_400), "hold"),
        (simulate(candidate=6.0), "reject"),
    ):
        decision = decide(scores, POLICY)
        page = explain(decision)
        assert page.startswith(f"# Verdict: {verdict}\n")
        for reason in decision["reasons"]:
            assert for_markdown(reason) in page
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert len(rows) == 1 + 1 + len(decision["guardrails"])
        assert all(row.count("|") == 10 for row in rows)
        assert "(99.5%)" in rows[1] and "(90%)" in rows[2]
        changes = page.split("## What would change the verdict\n")[1].replace("\\_", "_")
        assert "average_precision" in changes


def test_a_slice_s_white_space_is_seen_in_reasons_and_on_the_page(better: pd.DataFrame) -> None:
    lost = better["location"] == "c"
    worse = better.assign(candidate=better["candidate"].where(~lost, better["candidate"] * 0.55))
    decision = decide(worse.assign(location=worse["location"].mask(lost, "New\tDelhi")), POLICY)
    assert guardrail(decision, "recall[location=New\tDelhi]")["result"] == "harm"
    assert any(reason.startswith(r"recall[location=New\tDelhi] is clearly worse") for reason in decision["reasons"])
    assert explain(decision).count(r"recall\[location=New\\tDelhi\]") == 3
