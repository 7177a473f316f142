"""The bootstrap's normal approximation: its derivatives, its covariance, and where it takes the bootstrap's place."""

import numpy as np
import pandas as pd
import pytest

from matchmaking.evidence import influence
from matchmaking.evidence.bootstrap import bootstrap_weights, metric_scorer
from matchmaking.evidence.compare import decide
from matchmaking.evidence.explain import explain
from matchmaking.evidence.inference import resampled
from tests.decision_fixtures import POLICY, guardrail, simulate

SHAPES = {
    "plain": lambda y, p: p,
    "ties": lambda y, p: np.round(p * 8) / 8,
    "one score": lambda y, p: np.full(len(p), 0.7),
    "none chosen": lambda y, p: p * 0.4,
    "all in order": lambda y, p: np.where(y == 1, 0.9, 0.1) + p / 20,
    "certain": lambda y, p: np.round(p),
}


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The approximation for any number of rows."""
    monkeypatch.setattr(influence, "MOST_RESAMPLED", 100)
    monkeypatch.setattr(influence, "LEAST_OF_A_CLASS", 20)
    monkeypatch.setattr(influence, "MOST_OF_ONE", 1.0)


def estimates(match: np.ndarray, models: list[np.ndarray]) -> list[dict[str, float]]:
    ones = np.ones((1, len(match)))
    return [{name: float(value[0]) for name, value in metric_scorer(match, p)(ones).items()} for p in models]


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_those_of_the_metrics(shape: str) -> None:
    rng = np.random.default_rng(0)
    rows, step = 200, 1e-6
    match = (rng.random(rows) < 0.2).astype("int8")
    p = SHAPES[shape](match, 1 / (1 + np.exp(-(rng.normal(size=rows) * 2 + 2 * match - 1))))
    up, down = (metric_scorer(match, p)(np.ones((rows, rows)) + sign * step * np.eye(rows)) for sign in (1, -1))
    found = influence.gradients_of(match, p)
    assert found.keys() == up.keys()
    for name, gradient in found.items():
        expected = (up[name] - down[name]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * max(1e-3, np.abs(expected).max()), err_msg=name)


def test_the_area_s_error_is_delong_s() -> None:
    """Components of each match and each other row, with n - 1 below where resamples have n (DeLong et al., 1988)."""
    scores = simulate(rows=800)
    match, p = scores["match"].to_numpy(), scores["candidate"].to_numpy().round(2)
    pairs = p[match == 1][:, None] - p[match == 0]
    right = (pairs > 0) + (pairs == 0) / 2
    expected = right.mean(axis=1).var() / (match == 1).sum() + right.mean(axis=0).var() / (match == 0).sum()
    spread = influence._influences(match, np.arange(len(match)), [p, p], ["roc_auc"])
    assert spread[0] @ spread[0] == pytest.approx(expected)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("repeated", [False, True], ids=["each pair once", "pairs repeated"])
def test_draws_have_the_bootstrap_s_spread(repeated: bool) -> None:
    scores, resamples = simulate(rows=6_000, candidate=3.3, seed=4).round({"candidate": 2}), 1_500
    if repeated:
        scores = scores.loc[scores.index.repeat(np.random.default_rng(0).integers(1, 6, size=len(scores)))]
    group = pd.factorize(scores.index)[0]
    match, models = scores["match"].to_numpy(), [scores[m].to_numpy() for m in ("production", "candidate")]
    scorers, values = [metric_scorer(match, p) for p in models], estimates(match, models)
    old = resampled(match, group, scorers, resamples, np.random.default_rng(0))
    new = influence.normal_draws(match, group, models, values, resamples, np.random.default_rng(1))
    assert new is not None and new.keys() == old.keys()
    for name in old:
        for model in range(2):
            # a standard deviation of 1,500 draws is off by 1.8 % itself, and there are two
            assert new[name][model].std() == pytest.approx(old[name][model].std(), rel=0.11), name
            assert abs(new[name][model].mean() - values[model][name]) < 0.11 * old[name][model].std(), name
        gains = [pair[1] - pair[0] for pair in (old[name], new[name])]
        assert gains[1].std() == pytest.approx(gains[0].std(), rel=0.11), name
        for tail in (0.05, 0.95):
            ends = [float(np.quantile(gain, tail)) for gain in gains]
            assert ends[1] == pytest.approx(ends[0], abs=0.3 * gains[0].std()), name
    # together as well: what a match gains in recall it may cost in precision
    for one, other in (("recall", "precision"), ("brier", "log_loss"), ("average_precision", "roc_auc")):
        found = [np.corrcoef(pair[one][1] - pair[one][0], pair[other][1] - pair[other][0])[0, 1] for pair in (old, new)]
        assert found[1] == pytest.approx(found[0], abs=0.12), (one, other)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("candidate", "verdict"), [(2.0, "promote"), (3.0, "hold"), (4.5, "reject")])
def test_the_verdict_is_the_bootstrap_s(candidate: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = simulate(rows=6_000, candidate=candidate)
    new = decide(scores, POLICY)
    monkeypatch.setattr(influence, "MOST_RESAMPLED", len(scores))
    old = decide(scores, POLICY)
    assert (new["verdict"], old["verdict"]) == (verdict, verdict)
    assert new["intervals"] == "normal approximation of the bootstrap" and old["intervals"] == "bootstrap"
    assert "intervals by the normal approximation of the bootstrap, seed 0." in explain(new)
    assert "; bootstrap seed 0." in explain(old)
    # one of an earlier version
    assert explain({key: value for key, value in old.items() if key != "intervals"}) == explain(old)
    # what isn't resampled is the same
    for mine, other in zip(new["guardrails"], old["guardrails"], strict=True):
        assert mine["improvement"] == other["improvement"]
        assert "recall" not in mine["name"] or mine["p_harm"] == other["p_harm"]


@pytest.mark.usefixtures("everywhere")
def test_the_same_rows_and_seed_give_the_same_decision() -> None:
    scores = simulate(rows=3_000, candidate=2.5)
    shuffled = scores.sample(frac=1, random_state=1)
    assert decide(scores, POLICY, seed=3) == decide(shuffled, POLICY, seed=3) != decide(scores, POLICY, seed=4)


@pytest.mark.usefixtures("everywhere")
def test_production_itself_is_no_better_and_no_worse() -> None:
    scores = simulate(rows=3_000)
    decision = decide(scores.assign(candidate=scores["production"]), POLICY)
    assert (decision["verdict"], decision["intervals"][:6]) == ("hold", "normal")
    assert (decision["primary"]["ci"], decision["primary"]["p_value"]) == ([0.0, 0.0], 1.0)
    for name in set(POLICY.guardrails.margins) - {"calibration"}:
        found = guardrail(decision, name)
        assert (found["ci"], found["p_harm"]) == ([0.0, 0.0], 1.0), name


@pytest.mark.usefixtures("everywhere")
def test_a_metric_that_never_varies_is_no_obstacle() -> None:
    """A candidate that never says match: its recall and precision are 0 in every resample."""
    scores = simulate(rows=3_000)
    decision = decide(scores.assign(candidate=scores["production"] * 0.4), POLICY)
    assert (decision["verdict"], decision["intervals"][:6]) == ("reject", "normal")
    assert guardrail(decision, "recall")["result"] == guardrail(decision, "precision")["result"] == "harm"
    # the order is production's
    assert decision["primary"]["ci"] == [0.0, 0.0]
    match = scores["match"].to_numpy()
    models = [np.where(match == 1, 0.9, 0.1), np.full(len(match), 0.2)]
    group, values = np.arange(len(match)), estimates(match, models)
    drawn = influence.normal_draws(match, group, models, values, 1_000, np.random.default_rng(0))
    assert drawn is not None
    for name, (old, new) in drawn.items():
        assert np.isfinite(old).all() and np.isfinite(new).all(), name
        np.testing.assert_allclose(old, values[0][name], rtol=1e-12)


@pytest.mark.parametrize(
    ("least", "most", "kind"),
    [(10, 0.2, "normal approximation of the bootstrap"), (1_000, 0.2, "bootstrap"), (10, 1e-3, "bootstrap")],
    ids=["many rows", "few matches", "one pair outweighs the others"],
)
def test_it_takes_many_matches_of_which_none_outweighs_the_others(
    least: int, most: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = simulate(rows=3_000)
    assert decide(scores, POLICY)["intervals"] == "bootstrap"
    monkeypatch.setattr(influence, "MOST_RESAMPLED", 2_999)
    monkeypatch.setattr(influence, "LEAST_OF_A_CLASS", least)
    monkeypatch.setattr(influence, "MOST_OF_ONE", most)
    found = decide(scores, POLICY)
    assert found["intervals"] == kind
    # of as many groups as may be resampled, the resamples are those that they were
    monkeypatch.setattr(influence, "MOST_RESAMPLED", 3_000)
    assert (decide(scores, POLICY) == found) is (kind == "bootstrap")


def test_a_pair_that_is_repeated_without_end_is_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "MOST_RESAMPLED", 100)
    monkeypatch.setattr(influence, "LEAST_OF_A_CLASS", 20)
    monkeypatch.setattr(influence, "MOST_OF_ONE", 0.2)
    once = simulate(rows=3_000).assign(group=np.arange(3_000))
    often = pd.concat([once, *[once.tail(1)] * 3_000])
    assert [decide(scores, POLICY)["intervals"][:4] for scores in (once, often)] == ["norm", "boot"]


def test_weights_of_resamples_have_the_covariance_that_is_taken() -> None:
    """Within each stratum n are drawn of n: a group's count has variance 1 - 1/n, and two have covariance -1/n."""
    match = np.r_[np.ones(5, "int8"), np.zeros(20, "int8")]
    weights = np.concatenate([*bootstrap_weights(match, 20_000, np.random.default_rng(0))])
    found = np.cov(weights.T)
    assert np.diag(found)[:5].mean() == pytest.approx(1 - 1 / 5, abs=0.02)
    assert found[0, 1:5].mean() == pytest.approx(-1 / 5, abs=0.02)
    assert np.abs(found[:5, 5:]).max() < 0.05
