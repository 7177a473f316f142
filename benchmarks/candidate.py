"""How good a candidate is on fresh pairs: `python -m benchmarks.candidate sizes`, `... point`, `... many` or `... way`.

All on generated pairs.

`sizes`: average precision by the number of training rows, of the default candidate, the same without weight averaging,
and `--algorithm dense`. `point`: the operating point that was chosen, the one that would have been best, and what the
difference costs in F-beta, in expectation over the labels of the fresh pairs: where a sample of labels has its highest
F-beta is mostly chance. `many`: of millions of training rows, what is lost by epochs of `train.EPOCH_ROWS` rows and not
of all, in expectation over the labels, too, and the processor time of both. `way`: how far the default
candidate is on the way from a production to the ceiling, in ROC AUC and Brier score, in expectation over the labels
too; production is `--algorithm dense` on the same rows.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
from scipy.special import expit as probability
from scipy.special import logit
from sklearn.metrics import average_precision_score, roc_auc_score

from matchmaking.data.sample import generate, true_probability
from matchmaking.evidence.metrics import THRESHOLD
from matchmaking.model import features, train
from matchmaking.model.operating_point import as_found

FRESH = 30_000
FEWEST_MATCHES = 4
# (training rows, --epochs or 0 for the recipe's own, seeds)
SIZES = (
    (40, 0, 6),
    (100, 0, 6),
    (200, 0, 6),
    (400, 0, 3),
    (800, 0, 3),
    (1_600, 0, 3),
    (3_200, 0, 3),
    (9_600, 0, 3),
    (9_600, 3, 3),
)
# (training rows, seeds)
MANY = ((1_200_000, 2), (2_400_000, 2), (4_800_000, 1), (9_600_000, 1))
VARIANTS: tuple[tuple[str, str, bool], ...] = (
    ("candidate", "interactions", True),
    ("without averaging", "interactions", False),
    ("dense", "dense", True),
)


def fresh_logits(rows: int, recipe: train.Recipe) -> tuple[np.ndarray, np.ndarray, train.Training]:
    """Trains on generated pairs of the recipe's seed; gives the logits and true probabilities of `FRESH` others.

    Labels, where they are needed, are those of `generate(FRESH, seed=1_000 + recipe.seed)`.
    """
    drawn = (generate(rows, seed=seed) for seed in itertools.count(100 + recipe.seed, 100))
    # a dataset with fewer matches to train on isn't accepted
    pairs = next(each for each in drawn if each["match"].sum() >= FEWEST_MATCHES)
    fresh = generate(FRESH, seed=1_000 + recipe.seed)
    # as production's: fitted on other rows
    encoder, scaler = features.fit_encoders(generate(9_600, seed=99))
    inputs, unseen = (features.encode(each, encoder, scaler) for each in (pairs, fresh))
    trained, record = train.train(inputs, pairs["match"].to_numpy(np.float32), encoder.categories_, recipe)
    served = trained.predict(unseen, batch_size=8192, verbose=0).ravel().astype(float).clip(1e-7, 1 - 1e-7)
    return logit(served), true_probability(fresh), record


def expected_fbeta(logits: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F-beta of predicting the highest 1, 2, ... pairs as matches, in expectation: (their last logit, F-beta)."""
    order = np.argsort(-logits, kind="stable")
    beta2 = train.RECALL_WEIGHT**2
    found = np.cumsum(true[order])
    return logits[order], (1 + beta2) * found / (beta2 * true.sum() + np.arange(1, len(true) + 1))


def sizes(say: Callable[[str], None]) -> None:
    """Prints average precision by size and variant: the mean over the seeds, and each seed's."""
    for rows, epochs, seeds in SIZES:
        for name, algorithm, averaging in VARIANTS:
            found = []
            for seed in range(seeds):
                with mock.patch.object(train, "MOMENTUM", train.MOMENTUM if averaging else 0.0):
                    logits, _, _ = fresh_logits(rows, train.Recipe(algorithm, seed=seed, epochs=epochs))
                match = generate(FRESH, seed=1_000 + seed)["match"]
                found.append(average_precision_score(match, logits))
            each = " ".join(f"{value:.3f}" for value in found)
            say(f"{rows:>6,} rows  {f'{epochs} epochs' if epochs else '':<9} {name:<18} {np.mean(found):.4f}  ({each})")


def point(say: Callable[[str], None], rows: int = 9_600, seeds: int = 5) -> None:
    """Prints, for each seed, the operating point chosen, the best one, and F-beta at both."""
    say(f"{'seed':>4} {'chosen':>8} {'best':>8} {'F-beta':>8} {'highest':>8} {'lost':>8}")
    lost = []
    for seed in range(seeds):
        logits, true, record = fresh_logits(rows, train.Recipe(seed=seed))
        at, fbeta = expected_fbeta(logits, true)
        own = fbeta[np.count_nonzero(logits >= np.log(THRESHOLD / (1 - THRESHOLD))) - 1]
        best = probability(as_found(at[[fbeta.argmax()]], record.operating_point))[0]
        lost.append(fbeta.max() - own)
        say(f"{seed:>4} {record.operating_point:>8.3f} {best:>8.3f} {own:>8.4f} {fbeta.max():>8.4f} {lost[-1]:>8.4f}")
    say(f"lost, mean of {seeds} seeds: {np.mean(lost):.4f}, at most {np.max(lost):.4f}")


def many(say: Callable[[str], None]) -> None:
    """Prints, by size and seed, how good a candidate is with epochs of some of the rows and of all of them."""
    for rows, seeds in MANY:
        for seed in range(seeds):
            for name, epoch_rows in (("some", train.EPOCH_ROWS), ("all", rows)):
                with mock.patch.object(train, "EPOCH_ROWS", epoch_rows):
                    begin = time.process_time()
                    logits, true, record = fresh_logits(rows, train.Recipe(seed=seed))
                    took = time.process_time() - begin
                # each pair as a match and as none, as often as it is one
                label, weight = np.repeat([1, 0], len(true)), np.concatenate([true, 1 - true])
                both = np.tile(logits, 2)
                precision = average_precision_score(label, both, sample_weight=weight)
                roc_auc = roc_auc_score(label, both, sample_weight=weight)
                say(
                    f"{rows:>9,} rows  seed {seed}  {name:<4}  {record.drawn:>9,} in {record.recipe.epochs} epochs  "
                    f"average precision {precision:.5f}  ROC AUC {roc_auc:.5f}  {took:.0f} s"
                )


def expected_scores(logits: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """ROC AUC and Brier score in expectation over the labels (of ROC AUC, a ratio of expectations)."""
    both = np.repeat([1, 0], len(true))
    roc_auc = roc_auc_score(both, np.tile(logits, 2), sample_weight=np.concatenate([true, 1 - true]))
    given = probability(logits)
    return float(roc_auc), float(np.mean(true * (1 - given) ** 2 + (1 - true) * given**2))


def way(say: Callable[[str], None], rows: int = 9_600, seeds: int = 5) -> None:
    """Prints ROC AUC and Brier score, and where on the way from production to the ceiling they are, means over seeds.

    `all logits moved` is the candidate with its operating point made 0.5 by adding the same to all logits.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        # of the same fresh pairs
        logits, true, record = fresh_logits(rows, train.Recipe(seed=seed))
        dense, _, _ = fresh_logits(rows, train.Recipe("dense", seed=seed))
        moved = as_found(logits, record.operating_point) + record.logit_shift
        ways = {"production": dense, "all logits moved": moved, "candidate": logits, "ceiling": logit(true)}
        for name, each in ways.items():
            found.setdefault(name, []).append(expected_scores(each, true))
    means = {name: np.mean(scores, axis=0) for name, scores in found.items()}
    for name, scores in means.items():
        share = (scores - means["production"]) / (means["ceiling"] - means["production"])
        say(f"{name:<18} ROC AUC {scores[0]:.4f} ({share[0]:4.0%})  Brier {scores[1]:.4f} ({share[1]:4.0%})")


def main() -> None:
    """Prints what is asked for."""

    def say(line: str) -> None:
        print(line, flush=True)

    what = {"sizes": sizes, "point": point, "many": many, "way": way}
    if len(sys.argv) != 2 or sys.argv[1] not in what:
        sys.exit(__doc__)
    what[sys.argv[1]](say)


if __name__ == "__main__":
    main()
