"""Reading a dataset: what is refused, and in which words."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.csv_rows import CHUNK
from matchmaking.data.read import open_pairs, read_pairs
from matchmaking.data.sample import generate
from matchmaking.data.schema import COLUMNS
from tests.pairs_fixtures import write


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


@pytest.mark.parametrize(("field", "missing"), [("NA", True), (" NA", True), ('" NA"', False), ("NA ", False)])
def test_what_stands_for_a_missing_value_is_the_whole_field(
    tmp_path: Path, pairs: pd.DataFrame, field: str, missing: bool
) -> None:
    """But for spaces before it; what is in quotation marks has them in the text."""
    path = write(tmp_path, pairs.assign(city=["FIELD", *pairs["city"][1:]]))
    path.write_text(path.read_text().replace("FIELD", field))
    if missing:
        with pytest.raises(InputError, match="'city': missing values in line 2"):
            read_pairs(path)
    else:
        assert read_pairs(path)[0]["city"][0] == "NA"


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
        (_set("rating", 4, 1e300), ["'rating'", "outside 1..5", "line 6"]),
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
        (gzip.compress(b"case_type,location\n" * 5_000, mtime=0)[:60], "truncated or damaged"),
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


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no part"):
        read_pairs(tmp_path)
    with pytest.raises(InputError, match="doesn't exist"):
        read_pairs(tmp_path / "none.csv")


def replaced(pairs: pd.DataFrame, tmp_path: Path, line: int, column: str, field: str) -> Path:
    """A file in which one field, by line and column, is another text."""
    path = write(tmp_path, pairs)
    lines = path.read_text().splitlines()
    fields = lines[line - 1].split(",")
    fields[COLUMNS.index(column)] = field
    lines[line - 1] = ",".join(fields)
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


@pytest.mark.parametrize(
    ("column", "field", "words"),
    [
        # what a parser would make another number of, or cut, without a word
        ("budget", "1\x006300", "NUL byte"),
        ("city", "Del\x00hi", "NUL byte"),
        ("budget", "20.000", "'budget': not a plain whole number"),
        ("budget", "20.500", "'budget': not a plain whole number"),
        ("consultation_fee", "1.2E+04", "'consultation_fee': not a plain whole number"),
        ("urgency_level", "3e0", "'urgency_level': not a plain whole number"),
        ("budget", '"20,000"', "'budget': not a number"),
        ("rating", '"4,5"', "'rating': not a number"),
        ("budget", "0x4E20", "'budget': not a number"),
        ("budget", "20_000", "'budget': not a number"),
        ("budget", "20 000", "'budget': not a number"),
        ("budget", "20\u00a0000", "'budget': not a number"),
        ("budget", "\uff12\uff10", "'budget': not a number"),
        ("budget", "Rs 20000", "'budget': not a number"),
        ("success_rate", "50%", "'success_rate': not a number"),
        ("availability", "True", "'availability': not a number"),
        ("match", "FALSE", "'match': not a number"),
        ("rating", "nan", "'rating': missing values"),
        ("city", "NULL", "'city': missing values"),
        ("rating", "-inf", "'rating': an infinite value"),
        ("experience", "1e999", "'experience': an infinite value"),
        ("case_type", "\ufeffDivorce", "byte order mark"),
        ("rating", "4\ufeff", "byte order mark"),
        ("city", '"Delhi"x', "quote out of place"),
        ("city", '"Delhi', "quote out of place"),
        ("city", '"Del\nhi"', "'city': a line break"),
        ("city", "Del\rhi", "line 7"),
    ],
)
def test_what_a_parser_would_change_without_a_word_is_refused(
    tmp_path: Path, pairs: pd.DataFrame, column: str, field: str, words: str
) -> None:
    path = replaced(pairs, tmp_path, 7, column, field)
    with pytest.raises(InputError) as refused:
        read_pairs(path)
    message = str(refused.value)
    assert words in message and "line 7" in message and message.isprintable(), message


@pytest.mark.parametrize("field", ["20000", "20000.0", "20000.00", "+20000", " 20000 ", '"20000"', "020000", "20000."])
def test_a_whole_number_that_leaves_no_doubt_is_read(tmp_path: Path, pairs: pd.DataFrame, field: str) -> None:
    assert read_pairs(replaced(pairs, tmp_path, 7, "budget", field))[0].loc[5, "budget"] == 20_000


def test_a_nul_byte_late_in_a_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = replaced(generate(12_000, seed=0), tmp_path, 11_902, "budget", "1\x006300")
    with pytest.raises(InputError, match="line 11902 has a NUL byte"):
        read_pairs(path)
    packed = tmp_path / "pairs.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="line 11902 has a NUL byte"):
        read_pairs(packed)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, generate(12_000, seed=0))
    lines = path.read_bytes().splitlines()
    lines[11_901] = lines[11_901].replace(b",", b"\xfc,", 1)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"not UTF-8 text \(line 11902"):
        read_pairs(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_one(tmp_path: Path, pairs: pd.DataFrame, end: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(pairs.to_csv(index=False, lineterminator=end).encode())
    pd.testing.assert_frame_equal(read_pairs(path)[0], pairs)
    path.write_bytes(pairs.assign(rating=9.0).to_csv(index=False, lineterminator=end).encode())
    with pytest.raises(InputError, match=r"line 6 \(9.0\) and 195 more"):
        read_pairs(path)


def test_numbers_are_those_of_read_csv_to_the_last_bit(tmp_path: Path, pairs: pd.DataFrame) -> None:
    path = write(tmp_path, pairs.assign(experience=np.random.default_rng(0).random(200) * 30))
    pd.testing.assert_frame_equal(read_pairs(path)[0], pd.read_csv(path), check_exact=True)


def test_rows_beyond_the_first_chunk_keep_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.data.csv_rows.CHUNK", 60)
    assert CHUNK > 60
    pairs = generate(200, seed=0)
    pd.testing.assert_frame_equal(read_pairs(write(tmp_path, pairs))[0], pairs)
    with pytest.raises(InputError, match=r"not a number in line 150 \('x'\)$"):
        read_pairs(replaced(pairs, tmp_path, 150, "budget", "x"))


@pytest.mark.parametrize("field", ["x", " 20000", " NULL", "NULL ", "20.000", "-3", "1e999", "00020000", "-0", "2.5"])
@pytest.mark.parametrize("column", ["budget", "experience", "city"])
def test_both_parsers_say_the_same(
    tmp_path: Path, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, column: str, field: str
) -> None:
    """A quotation mark leaves a file to pandas; without one Arrow reads it, here in blocks of some 25 rows."""
    monkeypatch.setattr("matchmaking.data.csv_rows.BLOCK", 2048)
    path = replaced(pairs, tmp_path, 150, column, field)

    def said() -> pd.DataFrame | str:
        try:
            return read_pairs(path)[0]
        except InputError as error:
            return str(error)

    by_arrow = said()
    path.write_text(path.read_text().replace("case_type", '"case_type"'))
    by_pandas = said()
    if isinstance(by_arrow, str):
        assert by_arrow == by_pandas and "line 150" in by_arrow
    else:
        assert isinstance(by_pandas, pd.DataFrame)
        pd.testing.assert_frame_equal(by_arrow, by_pandas, check_exact=True)


def test_parts_go_on_where_arrow_gives_up(tmp_path: Path, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a line of spaces: the rows before it are not read twice, the ones after it not left out."""
    monkeypatch.setattr("matchmaking.data.csv_rows.BLOCK", 2048)
    path = write(tmp_path, pairs)
    lines = path.read_text().splitlines()
    lines[150] = "  "
    path.write_text("\n".join(lines) + "\n")
    parts, _ = open_pairs(path)
    frame = pd.concat([part.astype({"city": object}) for part in parts])
    assert frame.index.tolist() == list(range(199))
    assert frame["city"].tolist() == pairs["city"].drop(149).tolist()


def test_a_row_that_lacks_a_field_is_refused_not_filled_up(tmp_path: Path, pairs: pd.DataFrame) -> None:
    """With a column of ours missing in the middle, the extra column at the end becomes the label."""
    path = write(tmp_path, pairs.assign(seen=1))
    lines = path.read_text().splitlines()
    lines[6] = lines[6].rpartition(",")[0]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 7 has 14 fields, the header 15"):
        read_pairs(path)
    # an empty field is none that is missing
    path.write_text(path.read_text().replace(lines[6], lines[6] + ","))
    assert len(read_pairs(path)[0]) == 200


def test_columns_without_a_name_and_a_value_are_ignored(tmp_path: Path, pairs: pd.DataFrame) -> None:
    """As Excel leaves them, which ends some of the rows before them."""
    path = write(tmp_path, pairs)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*(line + ",," for line in lines[:17]), *lines[17:]]))
    read, extra = read_pairs(path)
    pd.testing.assert_frame_equal(read, pairs)
    assert extra == ["(unnamed)", "(unnamed)"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.split("\n", 1)[1], "has no header: line 1 is a row already ('Property,"),
        (lambda text: "Pairs of May\n" + text, "line 1 ('Pairs of May') is not the header, line 2 is"),
        (lambda text: "Pairs of May,,\nfrom the CRM\n\n" + text, "is not the header, line 4 is"),
        (lambda text: text.replace(",", ";"), "separated by semicolons"),
        (lambda text: text.replace(",", "\t"), "separated by tabs"),
        (lambda text: text.replace("budget", "Budget", 1), "column 'budget' is missing"),
        (lambda text: text.replace("budget", "bud\u200bget", 1), "'bud\\u200bget'"),
    ],
)
def test_a_header_that_is_none_is_told_as_that(
    tmp_path: Path, pairs: pd.DataFrame, change: Callable[[str], str], words: str
) -> None:
    path = write(tmp_path, pairs)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as refused:
        read_pairs(path)
    assert words in str(refused.value)
