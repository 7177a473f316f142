"""A dataset read in shards says what it says in one piece."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.data.sample import generate
from matchmaking.data.schema import SLICES
from matchmaking.evidence import metrics, shard
from matchmaking.evidence.evaluate import evaluate_models
from matchmaking.evidence.merge import merge_shards
from matchmaking.evidence.score_counts import ALL, ScoreCounts, curves_of, errors, evaluate_counts
from matchmaking.evidence.shard import count_shard
from matchmaking.inputs import shard_rows
from matchmaking.inputs.plan import SHARDS, check_by_rows, divide, plan_shards
from matchmaking.inputs.shard_rows import different
from matchmaking.inputs.split import ASSUMED, split_file
from matchmaking.inputs.validate import validate_file
from matchmaking.model.lineage import Lineage, pair_keys, write_lineage
from matchmaking.model.production import MODEL

Parts = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    frame = generate(3_000, seed=5)
    # a category that isn't known, late in the dataset, and one that is there from the start
    frame.loc[[4, 2_990], "city"] = ["Ahmedabad", "Surat"]
    # rows that repeat an earlier one: of the first part in the last, and beside each other
    frame.loc[2_995] = frame.loc[3]
    frame.loc[11] = frame.loc[10]
    return frame


@pytest.fixture(scope="module")
def known(incumbent: Path, pairs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A production model that knows what trained it: what a hash says, but for some pairs, some of them here."""
    folder = tmp_path_factory.mktemp("known") / "production"
    shutil.copytree(incumbent, folder)
    listed = np.unique(np.r_[pair_keys(pairs.iloc[100:400]), np.arange(1, 600, dtype=np.uint64)])
    flags = np.arange(len(listed)) % 2 == 0
    write_lineage(folder / MODEL, Lineage("0" * 32, "hash", 10, 10, listed, flags))
    return folder


def write(folder: Path, parts: Parts) -> Path:
    folder.mkdir()
    for name, frame in parts.items():
        frame.to_csv(folder / name, index=False)
    return folder


def cut(pairs: pd.DataFrame, count: int) -> Parts:
    """So many parts of uneven sizes; of several, the second is empty."""
    places = np.linspace(0, 1, count + (count == 1)) ** 1.5 * len(pairs)
    ends = sorted({*places.astype(int).tolist(), len(pairs)})
    frames = [pairs.iloc[a:b] for a, b in pairwise(ends)]
    if count > 1:
        frames.insert(1, pairs.iloc[:0])
    return {f"part-{number:02}.csv": frame for number, frame in enumerate(frames)}


def one_piece(data: Path, served: Path, scratch: Path, how: str = "auto") -> tuple[dict[str, Any], dict[str, Any]]:
    from matchmaking.data.parts import version_of

    scratch.mkdir()
    whole, train, test = (scratch / f"{name}.parquet" for name in ("whole", "train", "test"))
    report = validate_file(data, served, whole, source=str(data))
    split_file(whole, served, train, test, scratch / "lineage", how, version_of(data))
    return report, evaluate_models(test, served, None, scratch / "scores", scratch / "evaluation")


def in_shards(
    data: Path, served: Path, scratch: Path, shards: int, how: str = "auto", most: int = 10**7
) -> tuple[dict[str, Any], dict[str, Any]]:
    plan = json.loads(json.dumps(plan_shards(str(data), shards)))
    folders = [scratch / str(number) for number in range(len(plan["shards"]))]
    for number, folder in enumerate(folders):
        count_shard(plan, number, served, folder, uri=str(data), how=how, most=most)
    # whatever their order
    _, report, evaluation = merge_shards(folders[::-1], served, source=str(data), how=how, most=most)
    return report, evaluation


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """All that is counted is the same; what is added up, and scores' last bits, nearly."""
    assert found["split"] == wanted["split"]
    assert found["candidate"] is found["contract"] is wanted["candidate"] is None
    curves = (each["curves"]["production"] for each in (found, wanted))
    for name, points in next(curves).items():
        assert np.array(points).shape == np.array(wanted["curves"]["production"][name]).shape
        assert np.abs(np.array(points) - wanted["curves"]["production"][name]).max() < 2e-6
    ours, theirs = found["production"], wanted["production"]
    assert ours.keys() == theirs.keys()
    assert [*ours["slices"]] == [*theirs["slices"]] and ours["slices"].keys() == {*SLICES}
    rows = [(ours, theirs)]
    for column, values in theirs["slices"].items():
        assert [*ours["slices"][column]] == [*values]
        rows += [(ours["slices"][column][value], values[value]) for value in values]
    for a, b in rows:
        for name in ("rows", "positives", "accuracy", "precision", "recall", "f1", "confusion"):
            assert a[name] == b[name]
        for name in ("roc_auc", "average_precision", "brier", "log_loss", "ece"):
            assert a[name] == pytest.approx(b[name], abs=1e-7)


@pytest.mark.parametrize(("count", "how"), [(1, "auto"), (3, "hash"), (17, "auto")])
def test_shards_say_what_one_piece_says(count: int, how: str, pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    parts = cut(pairs, count)
    last = [*parts][-1]
    parts[last] = parts[last].assign(remark="x", other=1)
    data = write(tmp_path / "data", parts)
    report, evaluation = one_piece(data, known, tmp_path / "one", how)
    assert report["duplicates"] == 2 and report["unseen"] == {"city": {"Ahmedabad": 1, "Surat": 1}}
    assert report["extra_columns"] == ["remark", "other"] and evaluation["split"]["notes"]
    for shards in {2, SHARDS} if count > 1 else {1}:
        (tmp_path / str(shards)).mkdir()
        ours, measured = in_shards(data, known, tmp_path / str(shards), shards, how)
        assert ours == report
        assert measured.pop("parts") == {
            "parts": len(parts),
            "shards": min(shards, len(plan_shards(str(data), shards)["shards"])),
            "errors": {"roc_auc": 0.0, "average_precision": 0.0},
        }
        same(measured, evaluation)


def test_a_shard_of_several_batches(
    pairs: pd.DataFrame, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next batch is read while one is scored; each has its own scores."""
    monkeypatch.setattr(shard, "BATCH", 100)
    data = write(tmp_path / "data", cut(pairs, 3))
    _, evaluation = one_piece(data, known, tmp_path / "one")
    _, measured = in_shards(data, known, tmp_path, 1)
    assert measured["production"]["rows"] > 400
    measured.pop("parts")
    same(measured, evaluation)


def test_a_dataset_that_is_one_file(pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    pairs.to_csv(path, index=False)
    report, evaluation = one_piece(path, known, tmp_path / "one")
    ours, measured = in_shards(path, known, tmp_path, 4)
    assert ours == report and measured["parts"]["shards"] == 1
    same(measured, evaluation)


def test_parquet_and_a_model_from_elsewhere(pairs: pd.DataFrame, incumbent: Path, tmp_path: Path) -> None:
    served, data = tmp_path / "production", tmp_path / "data"
    shutil.copytree(incumbent, served)
    # with a note on how many of them are here again
    pairs.iloc[500:].to_csv(served / ASSUMED, index=False)
    data.mkdir()
    for number, part in enumerate(np.array_split(np.arange(2_000), 5)):
        pairs.iloc[part].to_parquet(data / f"{number}.parquet")
    report, evaluation = one_piece(data, served, tmp_path / "one")
    assert evaluation["split"]["assumed"]
    ours, measured = in_shards(data, served, tmp_path, 3)
    assert ours == report
    same(measured, evaluation)


def _cell(row: int, column: str, value: object) -> Callable[[Parts], None]:
    """Puts a value into a row of the dataset, wherever it is."""

    def change(parts: Parts) -> None:
        for name, frame in parts.items():
            if row in frame.index:
                parts[name] = frame.astype({column: object})
                parts[name].loc[row, column] = value

    return change


def _all(*changes: Callable[[Parts], None]) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        for each in changes:
            each(parts)

    return change


def _without(part: int, column: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        name = [*parts][part]
        parts[name] = parts[name].drop(columns=column)

    return change


def _rows(keep: Callable[[pd.DataFrame], pd.Series]) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        for name, frame in parts.items():
            parts[name] = frame[keep(frame)]

    return change


WRONG = {
    "a row": _cell(200, "budget", "lots"),
    "rows in several parts": _all(*(_cell(row, "rating", 7.5) for row in (2_000, 10, 900, 1_500, 2_500, 2_800))),
    "different things": _all(_cell(2_000, "city", None), _cell(10, "rating", 7), _cell(900, "budget", "20.000")),
    "two at once, the later column first": _all(_cell(2_000, "urgency_level", 9), _cell(10, "match", 3)),
    "a column": _without(3, "rating"),
    "a column, and a row before": _all(_without(4, "rating"), _cell(3, "budget", "lots")),
    "two columns": _all(_without(4, "rating"), _without(2, "budget")),
    "no row": _rows(lambda frame: frame["match"] > 1),
    "one class": _rows(lambda frame: frame["match"] == 0),
    "few": _rows(lambda frame: pd.Series(frame.index % 100 == 0, frame.index)),
    "unknown categories": lambda parts: parts.update({name: part.assign(city="X") for name, part in parts.items()}),
    "nothing held out": _rows(lambda frame: pd.Series(pair_keys(frame) / 2**64 > 0.3, frame.index)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_the_same_words(name: str, pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    parts = cut(pairs, 7)
    WRONG[name](parts)
    data = write(tmp_path / "data", parts)
    told(data, known, tmp_path)


def told(data: Path, served: Path, scratch: Path) -> str:
    with pytest.raises(InputError) as wanted:
        one_piece(data, served, scratch / "one", "hash")
    with pytest.raises(InputError) as found:
        in_shards(data, served, scratch, 3, "hash")
    assert str(found.value) == str(wanted.value)
    return str(wanted.value)


def test_a_part_that_ends_in_the_middle(pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    parts = cut(pairs, 5)
    _cell(3, "budget", "lots")(parts)
    data = write(tmp_path / "data", parts)
    for path in sorted(data.iterdir()):
        whole = gzip.compress(path.read_bytes())
        path.with_suffix(".csv.gz").write_bytes(whole[:-200] if "03" in path.name else whole)
        path.unlink()
    assert "truncated or damaged" in told(data, known, tmp_path)


def test_a_part_that_has_changed_since_it_was_counted_on(pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", cut(pairs, 3))
    plan = plan_shards(str(data), 2)
    with (data / "part-02.csv").open("a") as file:
        file.write("x\n")
    with pytest.raises(InputError, match=r"part-02\.csv has changed while the run went on"):
        count_shard(plan, 1, known, tmp_path / "out", uri=str(data), how="hash")


def test_a_shard_that_is_missing(pairs: pd.DataFrame, known: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", cut(pairs, 3))
    count_shard(plan_shards(str(data), 2), 0, known, tmp_path / "out", uri=str(data), how="hash")
    with pytest.raises(MlopsError, match="not all shards"):
        merge_shards([tmp_path / "out"], known, source="d", how="hash")


def test_what_cant_be_told_row_by_row_is_refused_first(known: Path, incumbent: Path, tmp_path: Path) -> None:
    check_by_rows("auto", known, "p")
    with pytest.raises(InputError, match="depends on all of them; choose auto or hash"):
        check_by_rows("stratified", known, "p")
    with pytest.raises(InputError, match="--production-data"):
        check_by_rows("auto", incumbent, "p")
    with pytest.raises(InputError, match="p holds no production model"):
        check_by_rows("auto", tmp_path, "p")


def test_parts_are_divided_evenly_and_stay_in_order() -> None:
    rng = np.random.default_rng(0)
    for count, most in ((1, 16), (3, 16), (16, 16), (1_000, 16), (1_000, 20)):
        sizes = rng.integers(50, 150, count).tolist()
        runs = divide(sizes, most)
        assert [part for run in runs for part in run] == [*range(count)]
        assert len(runs) == min(count, most) and all(runs)
        if count == 1_000:
            loads = [sum(sizes[part] for part in run) for run in runs]
            assert max(loads) <= 1.05 * sum(sizes) / most
    assert divide([0, 0, 0], 2) == [[0, 1, 2]]
    assert divide([10, 0, 0, 1], 2) == [[0], [1, 2, 3]]


def scored(rows: int, seed: int, tied: float = 0.2) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Labels, scores of a model with some of them tied, and slices of rows."""
    rng = np.random.default_rng(seed)
    match = rng.random(rows) < 0.12
    logits = rng.normal(4 * match - 5, 2)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32).astype(float)
    scores[rng.random(rows) < tied] = np.float32(0.5)
    scores[:2] = 0.0, 1.0
    return match.astype(np.int64), scores, generate(rows, seed)[[*SLICES]]


def counted(rows: tuple[np.ndarray, np.ndarray, pd.DataFrame], pieces: int, most: int = 10**7) -> ScoreCounts:
    """Counts of the rows' pieces, through a file, added up."""
    total = ScoreCounts(most)
    for part in np.array_split(np.random.default_rng(1).permutation(len(rows[0])), pieces):
        one = ScoreCounts(most)
        for half in np.array_split(part, 2):
            one.add(rows[0][half], rows[1][half], rows[2].iloc[half])
        total.merge(one)
    return total


@pytest.mark.parametrize("pieces", [1, 3, 17])
def test_scores_told_apart_give_the_rows_own_numbers(pieces: int, tmp_path: Path) -> None:
    rows = scored(20_000, 3)
    counts = counted(rows, pieces)
    counts.save(tmp_path / "scores")
    counts = ScoreCounts.load(tmp_path / "scores")
    wanted, found = metrics.evaluate(*rows), evaluate_counts(counts)
    assert found.keys() == wanted.keys() and [*found["slices"]] == [*wanted["slices"]]
    pairs = [(found, wanted)]
    pairs += [
        (found["slices"][column][value], wanted["slices"][column][value])
        for column, values in wanted["slices"].items()
        for value in values
    ]
    assert len(pairs) == 22
    for ours, theirs in pairs:
        for name in set(theirs) - {"brier", "log_loss", "ece", "slices"}:
            assert ours[name] == theirs[name], name
        for name in ("brier", "log_loss", "ece"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12)
    assert curves_of(counts) == metrics.curves(*rows[:2])
    assert errors(counts) == {"roc_auc": 0.0, "average_precision": 0.0}


@pytest.mark.parametrize("most", [30_000, 10_000, 3_000])
def test_scores_counted_together_are_off_by_no_more_than_is_said(most: int) -> None:
    rows = scored(20_000, 4, tied=0.0)
    wanted = metrics.evaluate(*rows)
    counts = counted(rows, 3, most)
    assert counts.dropped and len(counts._keys) <= most
    found, off = evaluate_counts(counts), errors(counts)
    for name in ("roc_auc", "average_precision"):
        assert off[name] > 0 and abs(found[name] - wanted[name]) <= off[name]
    for name in ("rows", "positives", "accuracy", "precision", "recall", "f1", "confusion"):
        assert found[name] == wanted[name]
    for name in ("brier", "log_loss", "ece"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-12)
    # and the more are told apart, the less
    assert off["roc_auc"] < 30 / most


def test_bounds_are_those_of_the_worst_order() -> None:
    """Two scores of one bin, in both orders: the truth is at the one bound or the other."""
    near = np.float32(0.25), np.nextafter(np.float32(0.25), np.float32(1))
    for first, second in (near, near[::-1]):
        match = np.array([1, 0, 1, 0])
        scores = np.array([first, second, np.float32(0.75), np.float32(0.01)], float)
        slices = generate(4, 1)[[*SLICES]].assign(**dict.fromkeys(SLICES, "x"))
        counts = ScoreCounts(12)
        counts.add(match, scores, slices)
        wanted = metrics.evaluate(match, scores)
        found, off = evaluate_counts(counts), errors(counts)
        assert counts.dropped == 1 and len(counts.scores(ALL)[0]) == 3
        assert abs(found["roc_auc"] - wanted["roc_auc"]) == pytest.approx(off["roc_auc"])
        assert abs(found["average_precision"] - wanted["average_precision"]) <= off["average_precision"]


def test_a_score_of_more_digits_is_no_models() -> None:
    with pytest.raises(ValueError, match="more digits"):
        ScoreCounts().add(np.array([1]), np.array([0.1]), generate(1, 1)[[*SLICES]])


def test_different_hashes_in_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_rows, "HASHES_AT_ONCE", 1_000)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64 - 1, 5_000, dtype=np.uint64, endpoint=True)
    hashes[:3] = 0, 2**64 - 1, 2**63
    files = []
    for number in range(4):
        runs = [np.unique(rng.choice(hashes, size)) for size in (0, 1, 700, 1_500)]
        path = tmp_path / str(number)
        path.write_bytes(b"".join(run.tobytes() for run in runs))
        files.append((path, [len(run) for run in runs]))
    (tmp_path / "none").write_bytes(b"")
    files.append((tmp_path / "none", [0, 0]))
    everything = np.concatenate([np.fromfile(path, np.uint64) for path, _ in files])
    assert different(files) == len(np.unique(everything)) < len(everything)
    assert different([]) == 0
