"""What is done in a shortcut where nothing is odd gives what the long way gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matchmaking.data import batches, cells
from matchmaking.data.problems import Problems
from matchmaking.data.schema import INTEGERS, LIMITS, keeps_limits, pair_schema


@pytest.mark.parametrize("digits", [15, 16])
@pytest.mark.parametrize("name", ["success_rate", "budget"])
def test_numbers_of_few_digits_are_those_of_the_long_way(
    name: str, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    letters = list("0123456789.") if name not in INTEGERS else list("0123456789")
    drawn = ["".join(rng.choice(letters, rng.integers(1, digits + 1))) for _ in range(4000)]
    # as the file has them, all at once; a slice of an array begins within its buffers
    text = pa.array(["x", *(text for text in drawn if text.count(".") < 2 and text != ".")]).slice(1)
    short = cells.spelt_number(name, text, 0, Problems())
    assert cells._few_digits(text, whole=name in INTEGERS) == (digits == 15)
    monkeypatch.setattr(cells, "_few_digits", lambda text, whole: False)
    np.testing.assert_array_equal(short, cells.spelt_number(name, text, 0, Problems()))


@pytest.mark.parametrize("text", ["1.2.3", ".", "1e3", "-1", "0x1", " 1", "1/2", "12345678901234567", "", None])
def test_what_is_odd_goes_the_long_way(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[str, str]:
        found = Problems()
        return str(cells.spelt_number("rating", pa.array(["1", text]), 0, found)), str(found)

    short = said()
    monkeypatch.setattr(cells, "_few_digits", lambda text, whole: False)
    assert short == said()


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_are_those_of_the_schema(name: str, pairs: pd.DataFrame) -> None:
    numbers = pairs[list(LIMITS)].astype(float).head(50)
    schema = pair_schema().select_columns(list(LIMITS))
    assert keeps_limits(numbers)
    low, high = LIMITS[name]
    for value in (low, high, low - 1, high + 1, np.nextafter(high, np.inf), low + 0.5, np.inf, -np.inf, np.nan):
        given = numbers.assign(**{name: [value, *numbers[name][1:]]})
        try:
            schema.validate(given)
            right = True
        except Exception as error:
            assert type(error).__name__ == "SchemaError"
            right = False
        assert keeps_limits(given) == right, value


def test_a_file_written_in_parts_has_texts_whatever_they_were_held_as(tmp_path: Path) -> None:
    parts = [
        pd.DataFrame({"city": pd.Categorical(["Pune", "Delhi"]), "rating": [1.0, 2.5]}),
        pd.DataFrame({"city": pd.Categorical([f"City {n}" for n in range(300)]), "rating": np.arange(300.0)}),
        pd.DataFrame({"city": ["Pune"], "rating": [4.0]}),
    ]
    with batches.writing(tmp_path / "pairs") as out:
        for part in parts:
            out.write(part)
    whole = pd.concat([part.astype({"city": object}) for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "pairs"), whole)
    assert pq.read_schema(tmp_path / "pairs").field("city").type == pa.string()


def test_a_text_is_written_once_however_many_lists_of_texts_there_are(tmp_path: Path) -> None:
    with batches.writing(tmp_path / "pairs") as out:
        for names in (["Pune", "Delhi"], ["Chennai", "Pune"], ["Delhi", "Kolkata"]):
            out.write(pd.DataFrame({"city": pd.Categorical(names * 1000)}))
    assert pq.read_metadata(tmp_path / "pairs").row_group(0).column(0).total_uncompressed_size < 6000


def test_the_same_rows_are_the_same_bytes_whatever_pieces_they_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 100)
    rng = np.random.default_rng(0)
    whole = pd.DataFrame({"city": rng.choice(["Pune", "Delhi", "Agra", None], 1050), "rating": rng.random(1050)})
    for size in (1, 30, 100, 250, 2000):
        with batches.writing(tmp_path / str(size)) as out:
            for start in range(0, 1050, size):
                part = whole.iloc[start : start + size]
                out.write(part.astype({"city": "category"}).reset_index(drop=True))
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / str(size)), whole)
        assert (tmp_path / str(size)).read_bytes() == (tmp_path / "1").read_bytes()
