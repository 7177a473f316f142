"""Reading a dataset: what is refused, in which words, and what is only reported."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from matchmaking.errors import InputError
from matchmaking.sample import generate
from matchmaking.schema import COLUMNS, check_enough, describe, file_md5, read_pairs


@pytest.fixture
def pairs() -> pd.DataFrame:
    return generate(200, seed=0)


def write(tmp_path: Path, frame: pd.DataFrame) -> Path:
    path = tmp_path / "pairs.csv"
    frame.to_csv(path, index=False)
    return path


def test_reads_what_was_written(tmp_path: Path, pairs: pd.DataFrame) -> None:
    read, extra = read_pairs(write(tmp_path, pairs))
    pd.testing.assert_frame_equal(read, pairs)
    assert extra == []


def test_reads_gzip_and_a_byte_order_mark(tmp_path: Path, pairs: pd.DataFrame) -> None:
    packed = tmp_path / "pairs.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + pairs.to_csv(index=False).encode()))
    pd.testing.assert_frame_equal(read_pairs(packed)[0], pairs)


def test_column_order_and_extra_columns_do_not_matter(tmp_path: Path, pairs: pd.DataFrame) -> None:
    shuffled = pairs[list(reversed(COLUMNS))].assign(note="x")
    read, extra = read_pairs(write(tmp_path, shuffled))
    pd.testing.assert_frame_equal(read, pairs)
    assert extra == ["note"]


def test_current_data_may_have_no_label(tmp_path: Path, pairs: pd.DataFrame) -> None:
    read, _ = read_pairs(write(tmp_path, pairs.drop(columns="match")), target=False)
    assert list(read.columns) == list(COLUMNS[:-1])


def _set(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="budget"), ["'budget'", "missing"]),
        (_set("rating", 3, "good"), ["'rating'", "not a number", "line 5", "'good'"]),
        (_set("city", 7, None), ["'city'", "missing values", "line 9"]),
        (_set("experience", 0, None), ["'experience'", "missing values", "line 2"]),
        (_set("success_rate", 4, 1.2), ["'success_rate'", "outside 0..1", "line 6", "1.2"]),
        (_set("urgency_level", 4, 6), ["'urgency_level'", "outside 1..5", "line 6"]),
        (_set("urgency_level", 4, 2.5), ["'urgency_level'", "not a whole number", "line 6"]),
        (_set("budget", 4, -1), ["'budget'", "outside 0..1e+09", "line 6", "-1"]),
        (_set("budget", 4, 1e300), ["'budget'", "outside 0..1e+09", "line 6"]),
        (_set("budget", 4, "123456789012345678901234567890"), ["'budget'", "outside 0..1e+09", "line 6"]),
        (_set("experience", 4, 1e39), ["'experience'", "outside 0..1e+09", "line 6"]),
        (_set("city", 7, "   "), ["'city'", "missing values", "line 9"]),
        (_set("consultation_fee", 9, float("inf")), ["'consultation_fee'", "infinite", "line 11"]),
        (_set("match", 9, 2), ["'match'", "outside 0..1", "line 11"]),
        (lambda f: f.head(0), ["no row"]),
    ],
)
def test_bad_rows_are_refused_by_name(
    tmp_path: Path, pairs: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], words: list[str]
) -> None:
    path = write(tmp_path, change(pairs))
    with pytest.raises(InputError) as refused:
        read_pairs(path)
    message = str(refused.value)
    assert "\n" not in message
    for word in [str(path), *words]:
        assert word in message


def test_only_the_first_offending_rows_are_named(tmp_path: Path, pairs: pd.DataFrame) -> None:
    pairs["rating"] = 9.0
    with pytest.raises(InputError, match=r"line 6 \(9.0\) and 195 more"):
        read_pairs(write(tmp_path, pairs))


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path, pairs: pd.DataFrame) -> None:
    """Blank lines before the header and between rows, and a line break inside a field, move the later rows."""
    path = tmp_path / "pairs.csv"
    header, *rows = pairs.assign(note="x", rating=9.0).head(4).to_csv(index=False).splitlines()
    rows[1] = rows[1].replace(",x", ',"two\nlines"')
    path.write_text("\n".join(["", header, rows[0], "", rows[1], rows[2], rows[3]]) + "\n")
    with pytest.raises(InputError, match=r"line 3 \(9.0\), line 5 \(9.0\), line 7 \(9.0\), line 8 \(9.0\)$"):
        read_pairs(path)


def test_a_row_with_too_many_fields_is_refused_not_shifted(tmp_path: Path, pairs: pd.DataFrame) -> None:
    path = write(tmp_path, pairs)
    lines = path.read_text().splitlines()
    lines[3] += ",1"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"more fields than the header's 14 in line 4"):
        read_pairs(path)
    lines[3] += ",1"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"can't be read as CSV.*line 4"):
        read_pairs(path)


def test_spaces_around_fields_do_not_make_new_categories(tmp_path: Path, pairs: pd.DataFrame) -> None:
    path = write(tmp_path, pairs)
    path.write_text(path.read_text().replace(",", " , "))
    pd.testing.assert_frame_equal(read_pairs(path)[0], pairs)


def test_an_index_column_is_an_extra_column(tmp_path: Path, pairs: pd.DataFrame) -> None:
    path = tmp_path / "pairs.csv"
    pairs.to_csv(path)
    read, extra = read_pairs(path)
    pd.testing.assert_frame_equal(read, pairs)
    assert extra == ["(unnamed)"]


def test_a_repeated_header_is_refused(tmp_path: Path, pairs: pd.DataFrame) -> None:
    path = tmp_path / "pairs.csv"
    header, rest = pairs.assign(again=1).to_csv(index=False).split("\n", 1)
    path.write_text(header.replace("again", "budget") + "\n" + rest)
    with pytest.raises(InputError, match=r"'budget' more than once"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"<!DOCTYPE html><html><body>502</body></html>", "HTML"),
        (b"\x1f\x8b\x08\x00 not a gzip", "truncated or damaged"),
        (gzip.compress(b"case_type,location\n" * 5_000)[:60], "truncated or damaged"),
        (b"\x00\x01\x02PAR1", "binary"),
        (",".join(COLUMNS).encode() + b"\nDivorce,M\xfcnchen" + b",1" * 12 + b"\n", "not UTF-8"),
    ],
)
def test_what_is_no_csv_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        read_pairs(path)
    assert str(path) in str(refused.value)


def test_a_gzip_that_breaks_off_late_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv.gz"
    whole = gzip.compress(generate(5_000, seed=0).to_csv(index=False).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_pairs(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_pairs(tmp_path)
    with pytest.raises(InputError, match="doesn't exist"):
        read_pairs(tmp_path / "none.csv")


def test_too_little_to_split_is_refused(pairs: pd.DataFrame) -> None:
    check_enough(pairs, "x")
    with pytest.raises(InputError, match="10 rows are too few"):
        check_enough(pairs.head(10), "x")
    with pytest.raises(InputError, match="one class only"):
        check_enough(pairs.assign(match=0), "x")
    with pytest.raises(InputError, match="2 rows of class 1"):
        check_enough(pairs.assign(match=[1, 1] + [0] * 198), "x")


def test_unseen_categories_are_counted_not_refused(pairs: pd.DataFrame) -> None:
    pairs.loc[:4, "city"] = "Ahmedabad"
    report = describe(pairs, ["note"], {"city": sorted(set(pairs["city"]) - {"Ahmedabad"})})
    assert report.unseen == {"city": {"Ahmedabad": 5}}
    assert report.extra_columns == ["note"]
    assert report.rows == 200


def test_md5_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_md5(path) == "900150983cd24fb0d6963f7d28e17f72"
