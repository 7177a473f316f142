"""Estimates without outcomes: by hand, against the known truth, under shift, and withheld where they'd be a guess."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from matchmaking.data import sample
from matchmaking.data.schema import FEATURES
from matchmaking.live.estimate import (
    Method,
    Minimum,
    Ratio,
    calibrate,
    density_ratio,
    estimate,
    expected_metrics,
    kish,
    learnt_chances,
)

# a model that knows all but overstates, and takes every third kind of case for a hopeless one
MISJUDGED = ("Fraud", "Tax")


def scored(rows: int, seed: int, demand: float | None = None) -> pd.DataFrame:
    """Pairs with a poor model's probability; `demand` is the share of cases it misjudges, where it isn't 2 in 7."""
    pairs = sample.generate(rows, seed)
    if demand is not None:
        rng = np.random.default_rng(seed)
        others = [kind for kind in sample.COVERED_BY if kind not in MISJUDGED]
        pairs["case_type"] = np.where(rng.random(rows) < demand, rng.choice(MISJUDGED, rows), rng.choice(others, rows))
    chance = sample.true_probability(pairs)
    logit = 1.5 * np.log(chance / (1 - chance)) + 0.5 - 4 * pairs["case_type"].isin(MISJUDGED)
    match = (np.random.default_rng([seed, 1]).random(rows) < chance).astype(int)
    return pairs.assign(match=match, chance=chance, probability=1 / (1 + np.exp(-logit)))


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return scored(20_000, 0)


def test_expected_metrics_by_hand() -> None:
    probability, chance = np.array([0.9, 0.6, 0.4, 0.1]), np.array([0.8, 0.5, 0.3, 0.0])
    found = {name: float(value[0]) for name, value in expected_metrics(probability, chance).items()}
    # expected confusion matrix: tp 1.3, fp 0.7, fn 0.3, tn 1.7
    assert found["precision"] == pytest.approx(1.3 / 2)
    assert found["recall"] == pytest.approx(1.3 / 1.6)
    assert found["f1"] == pytest.approx(2.6 / 3.6)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["brier"] == pytest.approx(
        (0.8 * 0.01 + 0.2 * 0.81 + 0.5 * 0.16 + 0.5 * 0.36 + 0.3 * 0.36 + 0.7 * 0.16 + 0.01) / 4
    )
    logs = -(np.log(probability) * chance + np.log(1 - probability) * (1 - chance)).mean()
    assert found["log_loss"] == pytest.approx(logs)
    assert found["average_precision"] == pytest.approx((0.8 * 0.8 + 0.5 * 1.3 / 2 + 0.3 * 1.6 / 3) / 1.6)


def test_certain_chances_are_labels() -> None:
    rng = np.random.default_rng(0)
    probability, match = rng.random(300), rng.integers(2, size=300).astype(float)
    found = expected_metrics(probability, np.vstack([match, 1 - match]))
    for row, labels in enumerate((match, 1 - match)):
        assert found["average_precision"][row] == pytest.approx(sk.average_precision_score(labels, probability))
        assert found["roc_auc"][row] == pytest.approx(sk.roc_auc_score(labels, probability))
        assert found["f1"][row] == pytest.approx(sk.f1_score(labels, probability >= 0.5))


def test_kish() -> None:
    assert kish(np.ones(7)) == 7
    assert kish(np.array([1.0, 1.0, 0.0, 0.0])) == 2
    assert kish(np.array([3.0, 1.0])) == pytest.approx(1.6)
    assert kish(np.zeros(3)) == 0


def test_calibration_undoes_what_the_model_overstates() -> None:
    rng = np.random.default_rng(0)
    chance = rng.beta(0.4, 2, 200_000)
    match, probability = (rng.random(200_000) < chance).astype(float), np.sqrt(chance)
    grid = np.linspace(0.05, 0.95, 19)
    found = calibrate(probability, match, np.ones(200_000), grid, 200, rng)
    assert found.shape == (201, 19)
    assert found[0] == pytest.approx(grid**2, abs=0.05)
    # each resample differs by about the binomial error of a bin
    inside = (np.quantile(found[1:], 0.005, axis=0) < grid**2) & (grid**2 < np.quantile(found[1:], 0.995, axis=0))
    assert inside.mean() > 0.8
    # weights count as repetitions do
    twice = calibrate(probability, match, np.full(200_000, 2.0), grid, 0, rng)
    assert twice[0] == pytest.approx(found[0])
    only = calibrate(probability, match, (chance < 0.3).astype(float), np.array([0.3]), 0, rng)
    assert only[0, 0] == pytest.approx(0.09, abs=0.02)


def test_density_ratio_is_even_without_shift_and_right_with_one(reference: pd.DataFrame) -> None:
    found = density_ratio(reference, scored(4_000, 1))
    assert found.weight.mean() == pytest.approx(1)
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert kish(found.weight) > 0.95 * len(reference)
    assert found.beyond.shape == (4_000,) and not found.beyond.any()
    found = density_ratio(reference, scored(4_000, 1, demand=0.6))
    misjudged = reference["case_type"].isin(MISJUDGED).to_numpy()
    assert found.weight[misjudged].mean() == pytest.approx(0.6 / (2 / 7), rel=0.1)
    assert found.weight[~misjudged].mean() == pytest.approx(0.4 / (5 / 7), rel=0.1)
    assert found.auc > 0.6 and not found.beyond.any()
    # a window larger than the reference is no reason to cut the weights off
    few = reference[:2_000]
    weight = density_ratio(few, scored(40_000, 1, demand=0.9)).weight
    misjudged = few["case_type"].isin(MISJUDGED).to_numpy()
    assert weight[misjudged].mean() / weight[~misjudged].mean() > 11  # 22.5, less what the classifier shrinks


def test_without_shift_all_are_near_the_truth(reference: pd.DataFrame) -> None:
    window = scored(4_000, 2)
    true = expected_metrics(window["probability"].to_numpy(), window["chance"].to_numpy())
    for method in ("cbpe", "pape", "robust"):
        found = estimate(reference, window, method)
        assert found.withheld is None
        assert found.rows == 4_000
        for name in ("average_precision", "recall", "precision", "f1", "roc_auc", "accuracy", "brier"):
            one = found.metrics[name]
            assert one["value"] == pytest.approx(float(true[name][0]), abs=0.025), (method, name)
            assert one["low"] < float(true[name][0]) < one["high"], (method, name)
        assert found.effective_rows == pytest.approx(20_000, rel=0 if method == "cbpe" else 0.1)
        assert (found.shift is None) == (method == "cbpe")
    again = estimate(reference, window, "robust")
    assert again == estimate(reference, window, "robust")


def test_under_covariate_shift_pape_sees_what_cbpe_misses(reference: pd.DataFrame) -> None:
    window = scored(4_000, 3, demand=0.7)
    true = expected_metrics(window["probability"].to_numpy(), window["chance"].to_numpy())["recall"][0]
    cbpe, pape = (estimate(reference, window, method) for method in ("cbpe", "pape"))
    assert cbpe.metrics["recall"]["value"] - true > 0.1
    assert abs(pape.metrics["recall"]["value"] - true) < 0.05
    assert pape.effective_rows < 0.7 * cbpe.effective_rows
    assert pape.shift is not None and pape.shift > 0.6


def test_learnt_chances_are_of_pairs_not_seen_and_tell_pairs_of_one_probability_apart(reference: pd.DataFrame) -> None:
    window = scored(4_000, 8)
    even = np.ones(len(reference))
    _, of_window = learnt_chances(reference, window, even)
    p, match = reference["probability"].to_numpy(), reference["match"].to_numpy(dtype=float)
    by_score = calibrate(p, match, even, window["probability"].to_numpy(), 0, np.random.default_rng(0))[0]
    error, by_score_error = (np.square(one - window["chance"]).mean() for one in (of_window, by_score))
    assert error < 0.5 * by_score_error
    # labels that nothing tells: a classifier that had seen them would know some of them
    noise = np.random.default_rng([0, 7]).integers(2, size=3_000)
    blind, _ = learnt_chances(reference[:3_000].assign(match=noise), window, np.ones(3_000))
    assert sk.roc_auc_score(noise, blind) == pytest.approx(0.5, abs=0.035)


def test_robust_is_nearer_than_pape_where_pairs_of_one_probability_differ(reference: pd.DataFrame) -> None:
    errors: dict[str, list[float]] = {"pape": [], "robust": []}
    for seed in range(20, 26):
        window = scored(1_500, seed, demand=0.7)
        true = expected_metrics(window["probability"].to_numpy(), window["chance"].to_numpy())["recall"][0]
        ratio = density_ratio(reference, window)
        for method in ("pape", "robust"):
            found = estimate(reference, window, method, ratio=ratio)
            errors[method].append(abs(found.metrics["recall"]["value"] - float(true)))
    assert np.mean(errors["robust"]) < 0.7 * np.mean(errors["pape"])


def test_robust_corrects_what_its_chances_leave_over_and_what_its_weights_do(reference: pd.DataFrame) -> None:
    window = scored(4_000, 9, demand=0.7)
    ratio = density_ratio(reference, window)
    names = ("recall", "precision", "average_precision")

    def values(**known: object) -> np.ndarray:
        return np.array([estimate(reference, window, **known).metrics[name]["value"] for name in names])  # type: ignore[arg-type]

    # chances that say nothing: what is left over is what PAPE says
    blind = np.full(len(reference), 0.02), np.full(len(window), 0.02)
    assert values(method="robust", ratio=ratio, chances=blind) == pytest.approx(values(method="pape", ratio=ratio))
    # weights that say nothing, but right chances
    true = expected_metrics(window["probability"].to_numpy(), window["chance"].to_numpy())
    known = reference["chance"].to_numpy(), window["chance"].to_numpy()
    even = Ratio(np.ones(len(reference)), 0.5, np.zeros(len(window), dtype=bool))
    right = np.array([float(true[name][0]) for name in names])
    assert values(method="robust", ratio=even, chances=known) == pytest.approx(right, abs=0.02)
    assert np.abs(values(method="cbpe") - right).max() > 0.1


def test_robust_is_not_biased_where_the_reference_has_few_matches() -> None:
    """The noise of what chances leave over is larger there; cut off at 0 and 1, log loss came out .004 too high."""
    errors = []
    for seed in range(300):
        reference, window = scored(3_500, 1_000 + seed), scored(1_500, 5_000 + seed)
        known = reference["chance"].to_numpy(), window["chance"].to_numpy()
        even = Ratio(np.ones(len(reference)), 0.5, np.zeros(len(window), dtype=bool))
        found = estimate(
            reference,
            window,
            "robust",
            ratio=even,
            chances=known,
            minimum=Minimum(effective_positives=200),
            resamples=2,
        )
        true = expected_metrics(window["probability"].to_numpy(), known[1])
        errors.append(found.metrics["log_loss"]["value"] - float(true["log_loss"][0]))
    mean, error = np.mean(errors), np.std(errors) / np.sqrt(len(errors))
    print(f"log loss: bias {mean:.5f}, standard error {error:.5f}")
    assert abs(mean) < 3 * error


def test_a_log_of_matches_almost_alone_is_withheld(reference: pd.DataFrame) -> None:
    for others in (0, 2, 399):
        few = pd.concat([reference[reference["match"] == 1], reference[reference["match"] == 0].head(others)])
        for method in ("cbpe", "pape", "robust"):
            found = estimate(few, reference.head(800), method)
            assert found.withheld == f"{others} pairs in the reference are no match, at least 400 are needed"
    # and where a slice asks for less, its classifiers have too little to learn from
    few = pd.concat([reference[reference["match"] == 1], reference[reference["match"] == 0].head(2)])
    even = Ratio(np.ones(len(few)), 0.5, np.zeros(800, dtype=bool))
    assert not any(one.any() for one in learnt_chances(few, reference.head(800), even.weight))
    found, plain = (
        estimate(few, reference.head(800), method, ratio=even, minimum=Minimum(2, 2, 2))
        for method in ("robust", "pape")
    )
    assert found.metrics["recall"]["value"] == pytest.approx(plain.metrics["recall"]["value"])


def test_concept_drift_is_invisible_to_all(reference: pd.DataFrame) -> None:
    window = scored(4_000, 4)
    drifted = 0.5 * window["chance"] + 0.5 * window["chance"].mean()
    true = expected_metrics(window["probability"].to_numpy(), drifted.to_numpy())["average_precision"][0]
    for method in ("cbpe", "pape", "robust"):
        assert estimate(reference, window, method).metrics["average_precision"]["value"] - true > 0.2


def test_the_interval_is_one_for_what_is_measured_later() -> None:
    model = scored(300_000, 5)
    held = 0
    for trial in range(60):
        part = model.iloc[trial * 5_000 : (trial + 1) * 5_000]
        reference, window = part[:4_000], part[4_000:]
        found = estimate(reference, window, "cbpe", minimum=Minimum(200, 500, 100), confidence=0.9, seed=trial)
        measured = sk.average_precision_score(window["match"], window["probability"])
        held += found.metrics["average_precision"]["low"] <= measured <= found.metrics["average_precision"]["high"]
    # 90 % of 60, give or take three standard errors
    assert 47 <= held <= 60


def test_too_little_is_withheld_with_the_reason(reference: pd.DataFrame) -> None:
    window = scored(4_000, 6)
    found = estimate(reference, window[:199], "cbpe")
    assert (found.metrics, found.withheld) == ({}, "199 pairs in the window, at least 200 are needed")
    found = estimate(reference[:2_000], window, "pape")
    assert found.withheld is not None and "matches in the reference, at least 400 are needed" in found.withheld
    assert (
        estimate(reference.iloc[:0], window, "pape").withheld == "0 matches in the reference, at least 400 are needed"
    )
    # plenty of pairs, but hardly any like the window's
    odd = window[(window["case_type"] == "Fraud") & (window["city"] == "Delhi")]
    found = estimate(reference, odd, "pape", minimum=Minimum(400, 5_000, 20))
    assert found.withheld is not None and found.withheld.startswith("the reference is worth")
    assert found.metrics == {}
    found = estimate(reference, odd, "pape", minimum=Minimum(1, 5_000, 20))
    assert found.effective_positives > 1
    assert found.withheld is not None and found.withheld.startswith("the reference is worth")


@pytest.mark.parametrize("method", ["cbpe", "pape", "robust"])
def test_pairs_of_a_category_that_the_reference_lacks_are_counted(reference: pd.DataFrame, method: Method) -> None:
    window = scored(4_000, 7)
    window.loc[:159, "city"] = "Ahmedabad"
    found = estimate(reference, window, method)
    assert found.unsupported == pytest.approx(0.04) and found.metrics and found.withheld is None
    assert set(FEATURES) <= set(window)
    window.loc[:239, "city"] = "Ahmedabad"
    found = estimate(reference, window, method)
    assert found.metrics == {}
    assert found.withheld == "6% of its pairs are like none of the reference, at most 5% may be"


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_pairs_beyond_all_that_was_seen_are_no_estimate(reference: pd.DataFrame, share: float) -> None:
    # fees in another currency: nothing in the reference is like it, and even weights would look as if all were
    window = scored(4_000, 7)
    rows = int(len(window) * share)
    window["consultation_fee"] = window["consultation_fee"].astype(float)
    window.loc[: rows - 1, "consultation_fee"] *= 80
    found = estimate(reference, window, "robust")
    assert found.metrics == {} and found.withheld is not None
    if share < 1:
        assert found.unsupported == pytest.approx(share, abs=0.02)
