"""Datasets in Parquet and in parts: they are read as the CSV of the same rows is, or refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv as arrow_csv

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_md5
from matchmaking.data.cells import as_csv_has_it, csv_texts
from matchmaking.data.parts import dataset_files, fetch_dataset, version_of
from matchmaking.data.read import open_pairs, read_pairs
from matchmaking.data.sample import generate
from matchmaking.data.schema import COLUMNS
from matchmaking.inputs.validate import validate_file
from tests.pairs_fixtures import write

Pairs = pd.DataFrame


def parquet(folder: Path, pairs: Pairs, name: str = "pairs.parquet", **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pairs.to_parquet(folder / name, index=False, **options)
    return folder / name


def in_parts(folder: Path, pairs: Pairs, ending: str, at: tuple[int, ...] = (30, 31, 150)) -> Path:
    """A folder of four parts, with what writers leave beside them."""
    folder.mkdir()
    for number, start in enumerate([0, *at]):
        part = pairs.iloc[start : [*at, len(pairs)][number]]
        name = folder / f"part-{number:04}{ending}"
        part.to_parquet(name, index=False) if ending == ".parquet" else part.to_csv(name, index=False)
    for name in ("_SUCCESS", ".part-0000.crc", "_metadata"):
        (folder / name).write_bytes(b"x")
    return folder


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as told:
        read_pairs(path, **options)
    message = str(told.value)
    assert message.isprintable() and str(path) in message
    return message


# -- the same rows are the same


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_parts_are_read_as_one_file(tmp_path: Path, pairs: Pairs, ending: str) -> None:
    read, extra = read_pairs(in_parts(tmp_path / "pairs", pairs, ending))
    pd.testing.assert_frame_equal(read, pairs, check_exact=True)
    assert extra == []


def as_categories(pairs: Pairs) -> Pairs:
    texts = pairs.select_dtypes("object").columns
    # one that no row has, as after a filter
    return pairs.astype({name: pd.CategoricalDtype([*pairs[name].unique(), "", "none"]) for name in texts})


@pytest.mark.parametrize(
    "change",
    [
        lambda pairs: pairs,
        as_categories,
        lambda pairs: pairs.astype({"match": float, "budget": "int32", "urgency_level": "uint8", "availability": bool}),
        lambda pairs: pairs.astype({"match": "Int8", "rating": "Float64", "city": "string"}),
        lambda pairs: pairs.assign(rating=[Decimal(str(value)) for value in pairs["rating"]]),
        lambda pairs: pairs[[*reversed(COLUMNS)]],
        lambda pairs: pairs.assign(city=" " + pairs["city"] + " "),
        lambda pairs: pairs.rename(columns={"city": " city "}),
    ],
    ids=["as it is", "categories", "other numbers", "nullable", "decimal", "reversed", "spaces", "spaces in a name"],
)
def test_types_that_hold_the_same_are_the_same(tmp_path: Path, pairs: Pairs, change: Callable[[Pairs], Pairs]) -> None:
    read, _ = read_pairs(parquet(tmp_path, change(pairs)))
    pd.testing.assert_frame_equal(read, pairs, check_exact=True)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_any_text_of_arrow_is_text(tmp_path: Path, pairs: Pairs, kind: pa.DataType) -> None:
    table = pa.Table.from_pandas(pairs, preserve_index=False)
    place = table.schema.get_field_index("city")
    pq.write_table(table.set_column(place, "city", table["city"].cast(kind)), tmp_path / "pairs.parquet")
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "pairs.parquet")[0], pairs)


def test_only_the_columns_of_ours_are_read(tmp_path: Path, pairs: Pairs) -> None:
    """Whatever else is there is not even decoded."""
    path = parquet(tmp_path, pairs.assign(nested=[{"a": [1]}] * 200, when=pd.Timestamp("2026-01-01")))
    read, extra = read_pairs(path)
    pd.testing.assert_frame_equal(read, pairs)
    assert extra == ["nested", "when"]
    note = "n" * 5_000
    data = parquet(tmp_path, pairs.assign(note=note), "b.parquet", compression=None, use_dictionary=False).read_bytes()
    damaged = data.replace(note.encode(), b"\xff" * 5_000)
    assert damaged != data
    (tmp_path / "b.parquet").write_bytes(damaged)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "b.parquet")[0], pairs)


@pytest.mark.parametrize("form", ["parquet", "csv parts", "parquet parts", "row groups"])
def test_validation_writes_the_same_bytes(tmp_path: Path, form: str) -> None:
    """With duplicates across parts, an extra column and rows of one of two categories that are new."""
    pairs = generate(2_000, seed=0).assign(note="x")
    pairs = pd.concat([pairs, pairs.iloc[:7]], ignore_index=True)
    one = write(tmp_path, pairs)
    other = {
        "parquet": lambda: parquet(tmp_path, pairs),
        "csv parts": lambda: in_parts(tmp_path / "pairs", pairs, ".csv"),
        "parquet parts": lambda: in_parts(tmp_path / "pairs", pairs, ".parquet"),
        "row groups": lambda: parquet(tmp_path, pairs, row_group_size=77),
    }[form]()
    reports = [
        validate_file(path, tmp_path, tmp_path / f"{place}.out", source="x") for place, path in enumerate((one, other))
    ]
    assert reports[0] == reports[1] and reports[0]["duplicates"] == 7 and reports[0]["extra_columns"] == ["note"]
    assert (tmp_path / "0.out").read_bytes() == (tmp_path / "1.out").read_bytes()


@pytest.mark.parametrize("made", ["exactly", "by pandas"])
def test_numbers_are_those_of_the_csv_to_the_last_bit(tmp_path: Path, made: str) -> None:
    """Whoever made Parquet of it: a pair is known by its numbers."""
    rng = np.random.default_rng(0)
    pairs = generate(3_000, seed=0)
    for name, most in {"experience": 28, "rating": 4, "success_rate": 1, "case_complexity_score": 1}.items():
        pairs[name] = rng.random(len(pairs)) * most + (name == "rating")
    one = write(tmp_path, pairs)
    read, _ = read_pairs(one)
    table = arrow_csv.read_csv(one) if made == "exactly" else pa.Table.from_pandas(pd.read_csv(one))
    # which is where the formats differ, or nothing is shown here
    assert (table["rating"].to_numpy() == read["rating"]).all() == (made == "by pandas")
    pq.write_table(table, tmp_path / "pairs.parquet")
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "pairs.parquet")[0], read, check_exact=True)
    for number in range(30):
        folder = tmp_path / "parts"
        folder.mkdir(exist_ok=True)
        pq.write_table(table.slice(number * 100, 100), folder / f"{number:03}.parquet")
    pd.testing.assert_frame_equal(read_pairs(folder)[0], read, check_exact=True)


def test_what_stands_for_missing_is_the_same_in_both_forms(tmp_path: Path, pairs: Pairs) -> None:
    """With a space before it too, as in a CSV file; with one after it, it is a text there."""
    for text, missing in (("NA", True), (" NA", True), ("NA ", False), ("NAN", False)):
        changed = pairs.assign(city=[text, *pairs["city"][1:]])
        for path in (parquet(tmp_path, changed), write(tmp_path, changed)):
            if missing:
                assert "'city': missing values in" in refused(path)
            else:
                assert read_pairs(path)[0]["city"][0] == text.strip()


def test_what_is_written_as_csv_is_read_to_the_last_bit() -> None:
    """Numbers that a CSV parser gives, those it never does of the shortest text among them."""
    exact = np.random.default_rng(0).random(20_000) * 6
    for values in (exact, as_csv_has_it(exact), exact.round(4), np.array([0.0, 1e9, 5e-324, 1e-7])):
        if values is exact:
            # such as a parser makes of more digits than are needed
            values = pd.to_numeric(pd.Series([f"{value:.20g}" for value in exact.tolist()])).to_numpy()
        read = pd.to_numeric(pd.Series(csv_texts(values))).to_numpy(dtype=float)
        assert (read == values).all()


def test_unlabelled_data_may_be_parquet(tmp_path: Path, pairs: Pairs) -> None:
    read, _ = read_pairs(parquet(tmp_path, pairs.drop(columns="match")), target=False)
    assert list(read.columns) == list(COLUMNS[:-1])


def test_parts_without_rows_count_for_nothing(tmp_path: Path, pairs: Pairs) -> None:
    for ending in (".csv", ".parquet"):
        folder = in_parts(tmp_path / ending, pairs.assign(rating=9.0), ending, at=(0, 0, 198))
        assert "line 2" in (said := refused(folder)) if ending == ".csv" else "row 1 " in (said := refused(folder))
        assert f"of part-0002{ending} (9.0)" in said and "193 more" not in said
        empty = in_parts(tmp_path / f"empty{ending}", pairs.head(0), ending, at=(0, 0))
        assert "no row" in refused(empty)


# -- what is wrong is told with the part, and the line or row


def change(column: str, row: int, value: object) -> Callable[[Pairs], Pairs]:
    def changed(pairs: Pairs) -> Pairs:
        pairs = pairs.astype({column: object})
        pairs.loc[row, column] = value
        return pairs

    return changed


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("city", None, "'city': missing values in row 8"),
        ("city", "  ", "'city': missing values in row 8"),
        ("city", "NULL", "'city': missing values in row 8"),
        ("city", "Del\nhi", "'city': a line break in row 8"),
        ("city", "Del\0hi", "'city': a NUL character or a byte order mark in row 8"),
        ("rating", None, "'rating': missing values in row 8"),
        ("rating", float("nan"), "'rating': missing values in row 8"),
        ("rating", float("-inf"), "'rating': an infinite value in row 8 (-inf)"),
        ("budget", 2.5, "'budget': not a whole number in row 8 (2.5)"),
        ("match", 0.5, "'match': not a whole number in row 8 (0.5)"),
        ("match", 2, "'match': outside 0..1 in row 8 (2.0)"),
        ("budget", 2**63 - 1, "'budget': outside 0..1e+09 in row 8"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, pairs: Pairs, column: str, value: object, words: str) -> None:
    whole = change(column, 7, value)(pairs)
    kinds = {"budget": "Int64", "rating": float} if value != 2.5 else {}
    whole = whole.astype({name: kind for name, kind in kinds.items() if name == column})
    said = refused(parquet(tmp_path, whole))
    assert words in said, said
    # row 8 of all is row 3 of the second part
    folder = in_parts(tmp_path / "parts", whole, ".parquet", at=(5, 100, 150))
    said = refused(folder)
    assert words.replace("row 8", "row 3 of part-0001.parquet") in said, said


def test_lines_are_those_of_the_part(tmp_path: Path, pairs: Pairs) -> None:
    folder = in_parts(tmp_path / "pairs", pairs.assign(rating=[4.0] * 29 + [9.0] * 3 + [4.0] * 168), ".csv")
    assert "in line 31 of part-0000.csv (9.0), line 2 of part-0001.csv (9.0), line 2 of part-0002.csv (9.0)" in refused(
        folder
    )
    (folder / "part-0002.csv").write_text("\n" + (folder / "part-0002.csv").read_text())
    assert "line 3 of part-0002.csv (9.0)" in refused(folder)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("budget", lambda v: v.astype(str), "'budget' is of type large_string, but whole numbers are wanted"),
        ("rating", lambda v: v.astype(str), "'rating' is of type large_string, but numbers are wanted"),
        ("budget", lambda v: pd.to_datetime(v, unit="s"), "'budget' is of type timestamp[ns], but whole numbers"),
        ("city", lambda v: np.arange(len(v)), "'city' is of type int64, but text is wanted"),
        ("city", lambda v: v.str.encode("utf-8"), "'city' is of type binary, but text is wanted"),
        ("city", lambda v: [{"name": each} for each in v], "'city' is of type struct<name: string>, but text"),
        ("rating", lambda v: [[each] for each in v], "'rating' is of type list<element: double>, but numbers"),
        ("urgency_level", lambda v: v > 2, "'urgency_level' is of type bool, but whole numbers are wanted"),
        ("rating", lambda v: [None] * len(v), "'rating': missing values in row 1, row 2, row 3, row 4, row 5 and 195"),
        ("city", lambda v: [None] * len(v), "'city': missing values in row 1, row 2"),
    ],
)
def test_wrong_types_are_refused(
    tmp_path: Path, pairs: Pairs, column: str, values: Callable[[pd.Series], Any], words: str
) -> None:
    wrong = pairs.assign(**{column: values(pairs[column])})
    said = refused(parquet(tmp_path, wrong))
    assert words.replace("large_string", "string") in said.replace("large_string", "string"), said
    folder = in_parts(tmp_path / "parts", pairs, ".parquet")
    parquet(folder, wrong, "part-0002.parquet")
    assert "part-0002.parquet" in refused(folder)


def test_bytes_that_are_no_text_are_told_by_their_row(tmp_path: Path, pairs: Pairs) -> None:
    path = parquet(tmp_path, pairs.assign(city=["Delhi"] * 7 + ["Zuerich!"] + ["Pune"] * 192), compression=None)
    path.write_bytes(path.read_bytes().replace(b"Zuerich!", b"Z\xfcrich!!"))
    assert "'city': bytes that are not UTF-8 text in row 8" in refused(path)


def test_damaged_files_are_refused(tmp_path: Path, pairs: Pairs) -> None:
    path = parquet(tmp_path, pairs)
    whole = path.read_bytes()
    for length in (3, 4, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refused(path)
        folder = in_parts(tmp_path / str(length), pairs, ".parquet")
        (folder / "part-0001.parquet").write_bytes(whole[:length])
        assert "part-0001.parquet in " in refused(folder)
    rng = np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 5):
            broken[place] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            read_pairs(path)
        except InputError as error:
            assert str(error).isprintable()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.parquet").write_bytes(b"PARE" + whole[4:])
    assert "encrypted" in refused(tmp_path / "0")
    (tmp_path / "0" / "a.parquet").write_text(pairs.to_csv(index=False))
    assert "no Parquet file" in refused(tmp_path / "0")


def test_columns_that_are_missing_or_there_twice_are_refused(tmp_path: Path, pairs: Pairs) -> None:
    assert "column 'budget' is missing" in refused(parquet(tmp_path, pairs.drop(columns="budget")))
    assert "'budget' more than once" in refused(parquet(tmp_path, pairs.assign(**{" budget": 1})))
    folder = in_parts(tmp_path / "parts", pairs, ".parquet")
    parquet(folder, pairs.drop(columns="match"), "part-0002.parquet")
    assert "part-0002.parquet in" in refused(folder)
    assert "part-0000.parquet has the column 'match', part-0002.parquet hasn't" in refused(folder, target=False)


# -- which files are parts


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no part"),
        (["_SUCCESS", ".a.csv", "_temporary/0/a.csv"], "holds no part"),
        (["a.csv", "b.parquet"], r"parts of both kinds \(a.csv, b.parquet\)"),
        (["a.csv", "a.csv.gz", "b.csv"], "holds a.csv and a.csv.gz, which seem to be the same part twice"),
        (["x/a.CSV", "x/a.csv.gz"], "the same part twice"),
        (["a.csv", "notes.txt"], "holds notes.txt, which is no part"),
        (["a.csv", "\x1b[2J.xlsx"], r"holds \\x1b\[2J.xlsx, which"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for read in (read_pairs, lambda folder: fetch_dataset(str(folder), tmp_path.with_name(f"{tmp_path.name}-copy"))):
        with pytest.raises(InputError, match=words):
            read(tmp_path)


def test_a_dataset_is_fetched_in_any_form(tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    one, parts = write(tmp_path, pairs), in_parts(tmp_path / "pairs", pairs, ".parquet")
    (parts / "old").mkdir()
    (parts / "part-0001.parquet").rename(parts / "old" / "part-0001.parquet")
    md5s = [file_md5(parts / name) for name in ("old/part-0001.parquet", "part-0000.parquet", "part-0002.parquet")]
    assert fetch_dataset(str(one), tmp_path / "one") == file_md5(one) == version_of(tmp_path / "one")
    version = fetch_dataset(f"{parts}/", tmp_path / "all")
    assert [path.name for path in sorted((tmp_path / "all").rglob("*.*"))] == [
        f"part-000{n}.parquet" for n in (1, 0, 2, 3)
    ]
    assert version == version_of(tmp_path / "all") != version_of(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    for pattern in (f"{parts}/part-*[02].parquet", "pairs/part-???[02].parquet", f"file://{parts}/part-*[0-2].parquet"):
        version = fetch_dataset(pattern, tmp_path / "some")
        assert len(list((tmp_path / "some").iterdir())) == 2
        # of their md5s, in order
        assert version == hashlib.md5("".join(f"{md5}\n" for md5 in md5s[1:]).encode()).hexdigest()
        assert list(dataset_files(pattern)[1]) == ["part-0000.parquet", "part-0002.parquet"]
    # one part is a file
    assert fetch_dataset("pairs/*/*.parquet", tmp_path / "deep") == md5s[0]
    for uri, words in (
        ("pairs/*.csv", "no file matches"),
        ("none", "doesn't exist"),
        ("none/*/x.csv", "no file matches"),
    ):
        with pytest.raises(InputError, match=words):
            fetch_dataset(uri, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    # brackets may be a name
    one.rename(tmp_path / "pairs[1].csv")
    assert fetch_dataset("pairs[1].csv", tmp_path / "again") == version_of(tmp_path / "one")


def test_the_version_is_of_the_bytes_in_order(tmp_path: Path, pairs: Pairs) -> None:
    folder = in_parts(tmp_path / "a", pairs, ".csv")
    version = version_of(folder)
    for path in [*folder.glob("part*")]:
        path.rename(folder / f"x{path.name}")
    assert version_of(folder) == version
    (folder / "xpart-0000.csv").rename(folder / "z.csv")
    assert version_of(folder) != version


def test_pieces_of_a_large_row_group_are_streamed(tmp_path: Path) -> None:
    path = parquet(tmp_path, generate(250_000, seed=0), row_group_size=10**9)
    pieces, _ = open_pairs(path)
    lengths = [len(piece) for piece in pieces]
    assert sum(lengths) == 250_000 and max(lengths) <= 100_000
