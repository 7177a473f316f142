"""How good recipes are, out of fold: each is trained as a candidate would be, ensemble and all, on all folds but one.

Folds are drawn as the held-out pairs are: by class, and both copies of a pair that is there twice are on one side. All
recipes have the same folds, so that they are compared on the same rows, and each fold has a seed of its own, so that a
score is the mean of several trainings. A fold is divided into blocks, all of one size: the differences between two
recipes from block to block say how much of a mean difference is chance, in twenty numbers however many rows there are.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.settings import MAX_SEED
from matchmaking.data.batches import batches
from matchmaking.data.schema import TARGET
from matchmaking.model import features
from matchmaking.model.lineage import Flags, Keys, pair_keys
from matchmaking.model.operating_point import as_found
from matchmaking.model.predict import prepare_tensorflow
from matchmaking.model.recipe import Recipe
from matchmaking.model.sweep.propose import part_of
from matchmaking.model.train import Diverged, encoders_for, train

if TYPE_CHECKING:
    import keras

FOLDS = 4
BLOCKS = 20
# of more training pairs, so many are drawn: what recipe is best changes little from there on, and a trial's memory and
# time not at all
MOST_ROWS = 600_000
# the log loss of a recipe that diverged: what hasn't has 16.1 at most, as probabilities are clipped
DIVERGED_LOSS = 1_000.0


def trial_file(train_path: Path, production_dir: Path, proposed: Sequence[Recipe], part: int) -> list[dict[str, Any]]:
    """Tries the recipes of one part.

    Args:
        train_path: parquet file of training pairs.
        production_dir: the production bundle, whose encoder and scaler are used; may be empty.
        proposed: all recipes, the default one first.
        part: which part of them.

    Returns:
        Their scores: `number`, and what `out_of_fold` gives.

    Raises:
        InputError: too few matches to draw folds.
        Diverged: the default recipe did; another one is told by its scores.
    """
    numbers = part_of(len(proposed), part)
    if not numbers:
        return []
    encoders = encoders_for(train_path, production_dir)
    keys, match = (
        np.concatenate(found)
        for found in zip(
            *((pair_keys(each), each[TARGET].to_numpy(np.float32)) for each in batches(train_path, what="looked at")),
            strict=True,
        )
    )
    drawn = draw(keys)
    keys, match = keys[drawn], match[drawn]
    blocks = draw_blocks(keys, match, proposed[0].seed)
    inputs = features.compact(_rows(train_path, drawn), len(match), encoders.encoder, encoders.scaler)
    categories = encoders.encoder.categories_
    found = []
    for number in numbers:
        print(f"trial {number}: {changes(proposed[number], proposed[0]) or 'the default recipe'}", flush=True)
        scores = _apart(out_of_fold, inputs, match, blocks, categories, proposed[number])
        if not scores["epochs"]:
            if number == 0:
                raise Diverged("a training of the default recipe diverged: there is nothing to compare others with")
            print(f"trial {number}: a training diverged, it won't be chosen", flush=True)
        found.append({"number": number, **scores})
    return found


def _apart(call: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What a function gives, in a process of its own: TensorFlow keeps some 60 MB of each training for good.

    It is forked, once the libraries are here and have done nothing, so that they needn't be imported each time; where
    that isn't safe, the function is called here.

    Raises:
        MlopsError: something ended the process.
    """
    if sys.platform != "linux":
        return call(*given)
    prepare_tensorflow()
    import keras  # noqa: F401

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as apart:
        try:
            return apart.submit(call, *given).result()
        except BrokenProcessPool as error:
            raise MlopsError("a recipe's process was ended, as the system does where memory runs out") from error


def draw(keys: Keys) -> Flags:
    """Which of the pairs take part: all, or about `MOST_ROWS`; copies of a pair do or don't together."""
    if len(keys) <= MOST_ROWS:
        return np.ones(len(keys), bool)
    # other bits than those that say which pairs are held out
    return np.asarray((keys & np.uint64(2**32 - 1)) / 2**32 < MOST_ROWS / len(keys))


def draw_blocks(keys: Keys, match: np.ndarray, seed: int) -> np.ndarray:
    """The block of each pair, 0 to `BLOCKS` - 1; its fold is the block's number modulo `FOLDS`. Shape (rows,).

    Raises:
        InputError: there are fewer matches, or non-matches, than blocks.
    """
    from sklearn.model_selection import StratifiedKFold

    _, first, of_key = np.unique(keys, return_index=True, return_inverse=True)
    labels = match[first]
    fewest = int(min((labels == 0).sum(), (labels == 1).sum()))
    if fewest < BLOCKS:
        raise InputError(
            f"a sweep needs {BLOCKS} matches and {BLOCKS} others among the training pairs, there are {fewest} of one "
            "kind; retrain takes the default recipe"
        )
    found = np.empty(len(first), np.int8)
    drawn = StratifiedKFold(BLOCKS, shuffle=True, random_state=seed).split(labels, labels)
    for block, (_, places) in enumerate(drawn):
        found[places] = block
    return found[of_key]


def out_of_fold(
    inputs: features.Compact, match: np.ndarray, blocks: np.ndarray, categories: Sequence[Sequence[str]], recipe: Recipe
) -> dict[str, Any]:
    """A recipe's scores on pairs that its trainings have not seen.

    Args:
        inputs: of each row.
        match: float32 of 0 and 1, shape (rows,).
        blocks: as `draw_blocks` gives them.
        categories: as for `train`.
        recipe: what is tried.

    Returns:
        `average_precision` and `roc_auc`, means over the folds; `block_losses`, the log loss of each block, of the
        probabilities before their operating point is made 0.5; `epochs` that a training took, at most;
        `cpu_seconds`. Where a training diverges: 0, 0.5, `DIVERGED_LOSS` and 0 epochs.
    """
    import keras
    from sklearn.metrics import average_precision_score, roc_auc_score

    begun = time.process_time()
    losses = np.zeros(BLOCKS)
    precisions, areas, epochs = [], [], []
    try:
        for fold in range(FOLDS):
            held_out = blocks % FOLDS == fold
            seen, unseen = np.flatnonzero(~held_out), np.flatnonzero(held_out)
            seed = (recipe.seed + fold) % (MAX_SEED + 1)
            model, training = train(inputs.take(seen), match[seen], categories, replace(recipe, seed=seed))
            logits = as_found(_logits(model, inputs, unseen), training.operating_point)
            labels = match[unseen]
            loss = np.logaddexp(0, logits) - labels * logits
            for block in range(fold, BLOCKS, FOLDS):
                losses[block] = loss[blocks[unseen] == block].mean()
            precisions.append(average_precision_score(labels, logits))
            areas.append(roc_auc_score(labels, logits))
            epochs.append(training.recipe.epochs)
            keras.backend.clear_session()
    except Diverged:
        losses[:] = DIVERGED_LOSS
        precisions, areas, epochs = [0.0], [0.5], [0]
    return {
        "average_precision": float(np.mean(precisions)),
        "roc_auc": float(np.mean(areas)),
        "block_losses": losses.tolist(),
        "epochs": max(epochs),
        "cpu_seconds": time.process_time() - begun,
    }


def changes(recipe: Recipe, default: Recipe) -> str:
    """What a recipe does otherwise than the default one, for people; empty where nothing."""
    names = [name for name in vars(default) if getattr(recipe, name) != getattr(default, name)]
    return ", ".join(f"{name} {_shown(getattr(recipe, name))}" for name in names)


def as_text(scores: Iterable[Mapping[str, Any]], cost: Mapping[str, Any]) -> str:
    """The scores of a part and what its step has cost, as JSON of numbers alone, six digits each.

    A step's output stands in the Workflow several times, with each quotation mark escaped anew.
    """
    rows = [[one[name] for name in _SCORE] for one in scores]
    return json.dumps(_rounded([[cost[name] for name in _COST], rows]), separators=(",", ":"))


def scores_of(text: str) -> list[dict[str, Any]]:
    """The scores in a text of `as_text`."""
    return [dict(zip(_SCORE, one, strict=True)) for one in json.loads(text)[1]]


def cost_of(texts: Iterable[str]) -> dict[str, Any]:
    """What all parts have cost, as the cost of one step: seconds are added up, its memory is that of the largest."""
    seconds, imports, peaks = zip(*(json.loads(text)[0] for text in texts), strict=True)
    return {"step": "trial", "wall_seconds": sum(seconds), "import_seconds": sum(imports), "peak_mb": max(peaks)}


_SCORE = ("number", "average_precision", "roc_auc", "cpu_seconds", "epochs", "block_losses")
_COST = ("wall_seconds", "import_seconds", "peak_mb")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def _rows(path: Path, drawn: Flags) -> Iterator[pd.DataFrame]:
    first = 0
    for each in batches(path, what="encoded"):
        yield each[drawn[first : first + len(each)]]
        first += len(each)


def _logits(model: keras.Model, inputs: features.Compact, which: np.ndarray, batch: int = 65_536) -> np.ndarray:
    """float64 of shape (rows,).

    Raises:
        Diverged: the model gives NaN.
    """
    found = [
        model.predict(inputs.rows(which[start : start + batch]), batch_size=8192, verbose=0)
        for start in range(0, len(which), batch)
    ]
    probability = np.concatenate(found).ravel().astype(float).clip(1e-7, 1 - 1e-7)
    if np.isnan(probability).any():
        raise Diverged("the model gives NaN for pairs that its training has not seen")
    return np.asarray(np.log(probability / (1 - probability)))
