"""A sweep: what is proposed, scores on pairs that no training has seen, and that chance is not what chooses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.data.sample import generate
from matchmaking.model import features, recipe
from matchmaking.model.lineage import pair_keys
from matchmaking.model.sweep import propose, trial
from matchmaking.model.sweep.choose import choose, choose_file
from matchmaking.model.train import Diverged

BLOCKS = trial.BLOCKS


def test_the_default_recipe_is_proposed_first_and_is_the_one_of_retrain() -> None:
    proposed = propose.propose(12, seed=3)
    assert proposed[0] == replace(recipe.completed(recipe.Recipe(seed=3), rows=10_000), batch_size=0)
    assert len(proposed) == 12 and len(set(proposed)) == 12
    assert proposed == propose.propose(12, seed=3) != propose.propose(12, seed=4)


def test_each_axis_is_covered_from_end_to_end_and_holds_the_default_recipe() -> None:
    default, *others = propose.propose(41, seed=0)
    for name in propose.SPACE:
        values = [getattr(each, name) for each in others]
        assert min(values) <= getattr(default, name) <= max(values), name
    # a Latin hypercube: of forty places on an axis each is taken once
    for name, share in (("members", 3), ("embedding", 4), ("hidden", 4)):
        counts = pd.Series([getattr(each, name) for each in others]).value_counts()
        assert len(counts) == share and counts.max() - counts.min() <= 1, name
    assert {each.epochs for each in propose.propose(9, seed=0, epochs=10)} <= set(range(5, 21))


@pytest.mark.parametrize("trials", [0, 1, 201])
def test_a_number_of_trials_that_makes_no_sense_is_refused(trials: int) -> None:
    with pytest.raises(InputError, match=f"--trials {trials}: give a number from 2 to 200"):
        propose.propose(trials, seed=0)


@pytest.mark.parametrize("trials", [2, 6, 17])
def test_the_parts_try_each_recipe_once(trials: int) -> None:
    parts = [propose.part_of(trials, part) for part in range(propose.PARTS)]
    assert sorted(number for numbers in parts for number in numbers) == list(range(trials))
    # none has much more to do than another
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_without_recipes_reads_nothing(tmp_path: Path) -> None:
    cost = {"wall_seconds": 10.0, "import_seconds": 1.0, "peak_mb": 700.0}
    proposed = propose.propose(2, seed=0)
    scores = trial.trial_file(tmp_path / "none.parquet", tmp_path / "none", proposed, propose.PARTS - 1)
    assert trial.scores_of(trial.as_text(scores, cost)) == []


def test_blocks_are_drawn_by_class_and_keep_copies_together() -> None:
    pairs = generate(2_000, seed=1)
    pairs = pd.concat([pairs, pairs.iloc[:500]])
    keys, match = pair_keys(pairs), pairs["match"].to_numpy(np.float32)
    blocks = trial.draw_blocks(keys, match, seed=0)
    assert sorted(set(blocks)) == list(range(BLOCKS))
    assert (blocks[:500] == blocks[2_000:]).all()
    distinct = pd.Series(match[:2_000]).groupby(blocks[:2_000])
    assert distinct.size().max() - distinct.size().min() <= 2
    assert distinct.sum().max() - distinct.sum().min() <= 1
    assert (blocks != trial.draw_blocks(keys, match, seed=1)).any()


def test_too_few_matches_for_a_sweep() -> None:
    pairs = generate(2_000, seed=1)
    few = pd.concat([pairs[pairs["match"] == 0], pairs[pairs["match"] == 1].iloc[:19]])
    with pytest.raises(InputError, match="needs 20 matches and 20 others among the training pairs, there are 19"):
        trial.draw_blocks(pair_keys(few), few["match"].to_numpy(np.float32), seed=0)


def test_of_many_pairs_some_are_drawn_and_copies_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = generate(4_000, seed=1)
    keys = pair_keys(pd.concat([pairs, pairs.iloc[:1_000]]))
    assert trial.draw(keys).all()
    monkeypatch.setattr(trial, "MOST_ROWS", 2_000)
    drawn = trial.draw(keys)
    assert 1_800 < drawn.sum() < 2_200
    assert (drawn[:1_000] == drawn[4_000:]).all()


@pytest.fixture(scope="module")
def encoded() -> tuple[features.Compact, np.ndarray, list[np.ndarray]]:
    pairs = generate(800, seed=1)
    encoder, scaler = features.fit_encoders(generate(3_000, seed=2))
    inputs = features.compact([pairs], len(pairs), encoder, scaler)
    keys = pair_keys(pairs)
    return inputs, trial.draw_blocks(keys, inputs.match, 0), encoder.categories_


def test_some_rows_are_those_rows(encoded: Any) -> None:
    inputs, _, _ = encoded
    which = np.array([7, 3, 700, 3])
    assert (inputs.take(which).rows(slice(None)) == inputs.rows(which)).all()
    assert (inputs.take(which).match == inputs.match[which]).all()


def test_scores_are_of_pairs_that_no_training_has_seen(encoded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that nothing explains can be learned by heart, and not be predicted."""
    # half the trainings
    monkeypatch.setattr(trial, "FOLDS", 2)
    inputs, blocks, categories = encoded
    chance = np.random.default_rng(0).permutation(inputs.match)
    learner = recipe.Recipe(
        seed=0, epochs=8, learning_rate=0.02, members=2, embedding=16, hidden=(64, 32), dropout=1e-6
    )
    scores = trial.out_of_fold(inputs, chance, blocks, categories, learner)
    assert 0.38 < scores["roc_auc"] < 0.62
    assert len(scores["block_losses"]) == BLOCKS and min(scores["block_losses"]) > 0
    assert scores["cpu_seconds"] > 0 and scores["epochs"] == 8


@pytest.fixture
def pairs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # a process isn't forked safely where TensorFlow has been at work
    monkeypatch.setattr(trial, "_apart", lambda call, *given: call(*given))
    generate(800, seed=1).to_parquet(tmp_path / "pairs.parquet", index=False)
    return tmp_path / "pairs.parquet"


def diverging(seed: int) -> recipe.Recipe:
    return recipe.Recipe(seed=seed, epochs=1, learning_rate=1e30, members=2, embedding=4, hidden=(8,), dropout=0.1)


def test_a_recipe_that_diverges_is_told_and_never_chosen(pairs_file: Path, tmp_path: Path) -> None:
    steady = replace(diverging(0), learning_rate=0.01)
    proposed = [steady, *(steady for _ in range(propose.PARTS - 1)), diverging(0)]
    cost = {"wall_seconds": 10.0, "import_seconds": 1.0, "peak_mb": 700.0}
    tried = trial.scores_of(trial.as_text(trial.trial_file(pairs_file, tmp_path / "none", proposed, 0), cost))
    assert [one["number"] for one in tried] == [0, propose.PARTS]
    assert tried[0]["epochs"] == 1 and max(tried[0]["block_losses"]) < 17
    found = choose([steady, diverging(0)], tried)
    assert found["chosen"] == 0 and [one["diverged"] for one in found["trials"]] == [False, True]
    said = found["trials"][1]
    assert (said["log_loss"], said["average_precision"], said["roc_auc"]) == (trial.DIVERGED_LOSS, 0, 0.5)
    # all numbers are finite, as JSON wants them
    json.dumps(found, allow_nan=False)


def test_a_default_recipe_that_diverges_is_an_error(pairs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="a training of the default recipe diverged"):
        trial.trial_file(pairs_file, tmp_path / "none", [diverging(0)], 0)


def test_a_recipe_whose_process_is_ended_is_told_in_one_line() -> None:
    with pytest.raises(MlopsError, match="process was ended, as the system does where memory runs out"):
        trial._apart(os._exit, 9)


def test_scores_come_through_as_numbers_alone() -> None:
    one = {"number": 3, "average_precision": 0.87654321, "roc_auc": 0.98, "cpu_seconds": 41.5, "epochs": 30}
    one["block_losses"] = [0.1] * BLOCKS
    cost = {"step": "trial", "wall_seconds": 10.0, "import_seconds": 1.0, "peak_mb": 700.0}
    text = trial.as_text([one], cost)
    assert '"' not in text and len(text) < 300
    assert trial.scores_of(text) == [{**one, "average_precision": 0.876543}]
    larger = trial.as_text([one], {**cost, "peak_mb": 800.0})
    assert trial.cost_of([text, larger]) == {
        "step": "trial",
        "wall_seconds": 20.0,
        "import_seconds": 2.0,
        "peak_mb": 800.0,
    }


def scores(losses: Any, average_precision: float) -> dict[str, Any]:
    numbers = {"average_precision": average_precision, "roc_auc": 0.98, "cpu_seconds": 40.0, "epochs": 30}
    return {**numbers, "block_losses": list(losses)}


# what is hard in a block is so for every recipe
HARD = np.random.default_rng(0).uniform(0.05, 0.2, BLOCKS)
NOISE = np.random.default_rng(1).normal(0, 0.002, (3, BLOCKS))
NOISE -= NOISE.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("gains", "precisions", "chosen", "why"),
    [
        ((0.005, 0.003), (0.88, 0.88), 1, "trial 1 lowers the log loss out of fold by 0.00500 ±"),
        # within what chance does between blocks
        ((0.0002, -0.003), (0.88, 0.88), 0, "within one standard error: the default recipe stays"),
        # a better log loss is nothing without the order of the pairs
        ((0.005, 0.003), (0.86, 0.88), 2, "trial 2 lowers the log loss"),
        ((-0.001, -0.002), (0.88, 0.88), 0, "no other recipe has a lower log loss"),
        ((0.005, 0.005), (0.86, 0.86), 0, "no other recipe has a lower log loss"),
    ],
)
def test_what_is_chosen_is_not_worse_out_of_fold_and_no_chance(
    gains: tuple[float, ...], precisions: tuple[float, ...], chosen: int, why: str
) -> None:
    tried = [scores(HARD, 0.87)]
    tried += [scores(HARD - gain + NOISE[n], ap) for n, (gain, ap) in enumerate(zip(gains, precisions, strict=True))]
    found = choose(propose.propose(3, seed=0), tried)
    assert found["chosen"] == chosen
    assert why in found["why"]
    default, best = found["trials"][0], found["trials"][chosen]
    assert best["log_loss"] <= default["log_loss"] and best["average_precision"] >= default["average_precision"]
    assert default["changes"] == "" and default["gain"] == 0
    assert found["trials"][1]["gain"] == pytest.approx(gains[0], abs=1e-6)
    assert found["trials"][1]["standard_error"] == pytest.approx(NOISE[0].std(ddof=1) / BLOCKS**0.5, abs=1e-6)


def test_the_choice_is_what_a_candidate_is_trained_by(tmp_path: Path) -> None:
    proposed = propose.propose(3, seed=5)
    cost = {"wall_seconds": 10.0, "import_seconds": 1.0, "peak_mb": 700.0}
    tried = [scores(HARD, 0.87), scores(HARD + 0.01, 0.87), scores(HARD - 0.01, 0.87)]
    # as the parts end, in any order
    results = [trial.as_text([{"number": n, **tried[n]}], cost) for n in (2, 0, 1)] + [trial.as_text([], cost)]
    choose_file(proposed, results, tmp_path / "choice.json")
    chosen, how = recipe.read_choice(tmp_path / "choice.json")
    assert chosen == proposed[2]
    assert how["chosen"] == 2 and [one["number"] for one in how["trials"]] == [0, 1, 2]
