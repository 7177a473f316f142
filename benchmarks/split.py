"""Does the held-out comparison tell the truth once the dataset grows? `make bench-split` runs it.

Production is trained on the first pairs of a dataset, the candidate by the same recipe on all of them. The difference
of their average precision on the held-out pairs should be the one on fresh pairs, which neither has seen. Three ways
to hold out: the stratified split alone, as if nothing were known of production; the same, without the pairs that
trained production (`--split stratified`); and `--split auto`, the default, for a production model that was trained here
and for one from elsewhere whose dataset is given (`--production-data`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from matchmaking.data.sample import generate
from matchmaking.data.schema import TARGET
from matchmaking.inputs import SPLITS
from matchmaking.inputs.split import ASSUMED, split, split_file
from matchmaking.model import production
from matchmaking.model.recipe import Recipe
from matchmaking.model.score import score
from matchmaking.model.train import train_candidate

FRESH = 30_000
WAYS = ("stratified alone", "stratified", "auto", "auto, elsewhere")


def main() -> None:
    """Prints a row for each dataset and way, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=6)
    parser.add_argument("--rows", type=int, nargs=2, default=(12_000, 20_000), help="before and after")
    chosen = parser.parse_args()
    before, after = chosen.rows
    print(f"candidate's average precision minus production's; {before:,} pairs grown to {after:,}")
    print(f"{'dataset':>7}  {'split':<18}{'held out':>9}{'on them':>10}{f'on {FRESH:,} fresh':>18}", flush=True)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for seed in range(chosen.datasets):
        pairs, fresh = generate(after, seed=seed), generate(FRESH, seed=1_000 + seed)
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                rows, differences = _compared(Path(folder) / way, way, pairs, before, fresh, seed)
                found[way].append(differences)
                print(f"{seed:>7}  {way:<18}{rows:>9,}{differences[0]:>+10.4f}{differences[1]:>+18.4f}", flush=True)
    for way, both in found.items():
        held, fresh_mean = np.mean(both, axis=0)
        wrong = sum(on_held < 0 < on_fresh or on_fresh < 0 < on_held for on_held, on_fresh in both)
        print(f"{'mean':>7}  {way:<18}{'':>9}{held:>+10.4f}{fresh_mean:>+18.4f}   other sign: {wrong} of {len(both)}")


def _compared(folder, way, pairs, before, fresh, seed):  # type: ignore[no-untyped-def]
    """The rows that one way holds out, and the difference on them and on fresh pairs."""
    served = folder / "served"
    served.mkdir(parents=True)
    old = pairs.head(before)
    # the production model: from elsewhere it has no lineage
    first = "stratified" if way != "auto" else "auto"
    _train(folder / "first", old, folder / "none", first, seed, lineage=way in ("auto", "stratified"))
    for name in production.FILES:
        shutil.copyfile(folder / "first" / "bundle" / name, served / name)
    if way == "auto, elsewhere":
        old.to_csv(served / ASSUMED, index=False)
    how = way if way in SPLITS else "auto" if way != "stratified alone" else "stratified"
    test = _train(folder / "second", pairs, served, how, seed + 1, lineage=True)
    if way == "stratified alone":
        _, test = split(pairs, "stratified")
    differences = []
    for rows in (test, fresh):
        scores = [score(rows, bundle) for bundle in (served, folder / "second" / "bundle")]
        differences.append(float(np.subtract(*[average_precision_score(rows[TARGET], p) for p in reversed(scores)])))
    return len(test), tuple(differences)


def _train(folder, pairs, served, how, seed, *, lineage):  # type: ignore[no-untyped-def]
    """Splits, trains into `bundle`, and gives the held-out pairs."""
    import pandas as pd

    folder.mkdir()
    logging.disable()
    pairs.to_parquet(folder / "pairs")
    parts = [folder / name for name in ("train", "test", "lineage")]
    split_file(folder / "pairs", served, *parts, how, "")
    with contextlib.redirect_stdout(io.StringIO()):
        recipe = Recipe(seed=seed)
        train_candidate(parts[0], served, folder / "bundle", recipe, lineage_path=parts[2] if lineage else None)
    return pd.read_parquet(parts[1])


if __name__ == "__main__":
    main()
