"""How often a model gave each score, by class and slice: counts that add up over the parts of a dataset.

A model's probabilities are float32, whose bits are in the order of the numbers. As long as there are at most `MOST`
different ones (a slice's counted by themselves), each is counted by itself, and whatever depends on the order of the
scores alone (the ROC curve, precision and recall) is that of the rows, to the last digit. Where there are more, scores
that agree in their first bits are counted together, as if they were tied, and how far that may be off is known exactly.

What is a mean over rows (Brier score, log loss, calibration error) is added up from the rows themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.data.schema import SLICES
from matchmaking.evidence import metrics

# scores that are told apart, at most: about 250 MB, and three times as much while they are sorted
MOST = 10_000_000
# scores between two counts
PENDING = 4_000_000
# of a float32, below which 0.5 (the operating point) isn't told from what is beside it any more
MOST_DROPPED = 22
_HALF = int(np.float32(metrics.THRESHOLD).view(np.uint32))
_SCORE = np.uint64(32)
# all rows, as a slice
ALL = ("", "")


class ScoreCounts:
    """Scores counted while they pass by.

    Args:
        most: scores that are told apart, at most.

    Attributes:
        dropped: bits of a score that aren't looked at, of the 24 that a float32 has.
        slices: the slices there are, as column and value, with what is added up of each: `square` and `loss` (of Brier
            score and log loss), and `bins`, as `metrics.bin_sums` gives them, float64 of shape (3, 15).
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.dropped = most, 0
        self.slices: dict[tuple[str, str], dict[str, Any]] = {}
        # a slice's number and a score's bits, ascending; and how many rows of each class have it
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty((2, 0), np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def add(self, match: np.ndarray, probability: np.ndarray, slices: pd.DataFrame) -> None:
        """Counts some rows.

        Args:
            match: 0/1 labels, shape (rows,).
            probability: as a model gives them, shape (rows,).
            slices: the columns of `SLICES`, same rows.

        Raises:
            ValueError: a probability is no float32.
        """
        match = np.asarray(match).astype(np.int64)
        single = np.asarray(probability, np.float32)
        if (single != probability).any():
            raise ValueError("scores of more digits than a model gives")
        bits = single.view(np.uint32)
        self._add(ALL, match, probability, bits)
        for column in SLICES:
            for value, rows in slices.groupby(column, observed=True).indices.items():
                self._add((column, str(value)), match[rows], probability[rows], bits[rows])
        if self._held > PENDING:
            self._settle()

    def _add(self, which: tuple[str, str], match: np.ndarray, probability: np.ndarray, bits: np.ndarray) -> None:
        from sklearn.metrics import log_loss

        if not len(match):
            return
        sums = self._slice(which)
        sums["square"] += float(((probability - match) ** 2).sum())
        sums["loss"] += float(log_loss(match, probability, labels=[0, 1], normalize=False))
        sums["bins"] += np.array(metrics.bin_sums(match, probability))
        self._hold(self._numbered(which, bits), np.array([1 - match, match]))

    def merge(self, other: ScoreCounts) -> None:
        """Adds what another one has counted."""
        other._settle()
        self.dropped = max(self.dropped, other.dropped)
        keys = other._keys.copy()
        for number, (which, sums) in enumerate(other.slices.items()):
            own = self._slice(which)
            for name in ("square", "loss", "bins"):
                own[name] = own[name] + sums[name]
            first, last = np.searchsorted(other._keys, np.array([number, number + 1], np.uint64) << _SCORE)
            keys[first:last] = self._numbered(which, other._keys[first:last].astype(np.uint32))
        self._hold(keys, other._counts)
        self._settle()

    def scores(self, which: tuple[str, str] = ALL) -> tuple[np.ndarray, np.ndarray]:
        """The different scores of a slice, ascending, and how many rows of each class (0, 1) have each.

        Returns:
            float64 of shape (scores,), int64 of shape (2, scores).
        """
        self._settle()
        number = [*self.slices].index(which)
        first, last = np.searchsorted(self._keys, np.array([number, number + 1], np.uint64) << _SCORE)
        bits = (self._keys[first:last] & np.uint64(2**32 - 1)).astype(np.uint32)
        return bits.view(np.float32).astype(float), self._counts[:, first:last]

    def save(self, path: Path) -> None:
        """Writes them to a file of numpy's (.npz); see `load`."""
        self._settle()
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                dropped=np.array(self.dropped),
                names=np.array([*self.slices], dtype=str).reshape(-1, 2),
                sums=np.array([[sums["square"], sums["loss"]] for sums in self.slices.values()]).reshape(-1, 2),
                bins=np.array([sums["bins"] for sums in self.slices.values()]).reshape(-1, 3, metrics.BINS),
                keys=self._keys,
                # few scores have more rows than that
                counts=self._counts.astype(np.uint32 if self._counts.max(initial=0) < 2**32 else np.int64),
            )

    @classmethod
    def load(cls, path: Path, most: int = MOST) -> ScoreCounts:
        """Those in a file that `save` wrote."""
        found = cls(most)
        with np.load(path, allow_pickle=False) as file:
            found.dropped = int(file["dropped"])
            for name, (square, loss), bins in zip(file["names"], file["sums"], file["bins"], strict=True):
                found.slices[str(name[0]), str(name[1])] = {"square": float(square), "loss": float(loss), "bins": bins}
            found._keys, found._counts = file["keys"], file["counts"].astype(np.int64)
        return found

    def _slice(self, which: tuple[str, str]) -> dict[str, Any]:
        empty = {"square": 0.0, "loss": 0.0, "bins": np.zeros((3, metrics.BINS))}
        return self.slices.setdefault(which, empty)

    def _numbered(self, which: tuple[str, str], bits: np.ndarray) -> np.ndarray:
        return (np.uint64([*self.slices].index(which)) << _SCORE) | bits.astype(np.uint64)

    def _hold(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self._pending.append((keys, counts))
        self._held += len(keys)

    def _settle(self) -> None:
        """Counts what is held, and tells fewer scores apart where there are too many."""
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._pending)], axis=1)
        self._pending, self._held = [], 0
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[:, order]
        del order
        while True:
            keys = keys >> np.uint64(self.dropped) << np.uint64(self.dropped)
            first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)
            if len(first) < len(keys):
                keys, counts = keys[first], np.add.reduceat(counts, first, axis=1)
            if len(keys) <= self.most or self.dropped >= MOST_DROPPED:
                break
            self.dropped += 1
        self._keys, self._counts = keys, counts


def evaluate_counts(counts: ScoreCounts) -> dict[str, Any]:
    """`metrics.evaluate` of the rows that were counted."""
    result = _scalars(counts, ALL)
    result["slices"] = {column: {} for column in SLICES}
    for column, value in sorted(counts.slices.keys() - {ALL}):
        result["slices"][column][value] = _scalars(counts, (column, value))
    return result


def curves_of(counts: ScoreCounts) -> dict[str, list[list[float]]]:
    """`metrics.curves` of the rows that were counted."""
    rows, probabilities, matches = counts.slices[ALL]["bins"]
    return {
        **metrics.ranking_curves(*_weighted(*counts.scores())),
        "calibration": metrics.calibration_curve(rows, probabilities, matches),
    }


def errors(counts: ScoreCounts) -> dict[str, float]:
    """How far `roc_auc` and `average_precision` of all rows may be off, as scores were counted together; else 0.

    Of a pair of a match and another row with scores in one bin, half a pair is taken to be in order: all may be, or
    none. The precision at a match lies between that with the others of its bin all before it, and all behind.
    """
    if not counts.dropped:
        return {"roc_auc": 0.0, "average_precision": 0.0}
    _, by_class = counts.scores()
    others, matches = by_class[:, ::-1].astype(float)
    positives, negatives = matches.sum(), others.sum()
    if not positives or not negatives:
        return {"roc_auc": 0.0, "average_precision": 0.0}
    after_matches, after_others = np.cumsum(matches), np.cumsum(others)
    before_matches, before_others = after_matches - matches, after_others - others
    used = matches > 0
    share = matches[used] / positives
    found = after_matches[used] / (after_matches + after_others)[used]
    low = (before_matches[used] + 1) / (before_matches[used] + 1 + after_others[used])
    high = after_matches[used] / (after_matches[used] + before_others[used])
    value = float((share * found).sum())
    low_sum, high_sum = float((share * low).sum()), float((share * high).sum())
    return {
        "roc_auc": float((matches * others).sum() / (2 * positives * negatives)),
        "average_precision": max(high_sum - value, value - low_sum),
    }


def _scalars(counts: ScoreCounts, which: tuple[str, str]) -> dict[str, Any]:
    scores, by_class = counts.scores(which)
    said = scores.astype(np.float32).view(np.uint32) >= _HALF
    (tn, fn), (fp, tp) = ((int(count) for count in by_class[:, rows].sum(axis=1)) for rows in (~said, said))
    rows = tn + fp + fn + tp
    sums = counts.slices[which]
    in_bin, probabilities, matches = sums["bins"]
    return metrics.scalars_of(
        {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        metrics.ranking_scores(*_weighted(scores, by_class)),
        brier=sums["square"] / rows,
        log_loss=sums["loss"] / rows,
        ece=float(np.abs(probabilities - matches).sum() / in_bin.sum()),
    )


def _weighted(scores: np.ndarray, by_class: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each score of each class as one row, with how many it stands for: what scikit-learn takes as weights."""
    match = np.repeat(np.array([0, 1], np.int8), len(scores))
    return match, np.tile(scores, 2), by_class.ravel()
