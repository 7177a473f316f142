"""What a dataset holds: what is too little, what is only reported, and in which words."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.describe import Tally, check_enough, describe
from matchmaking.evidence.compare import with_data
from matchmaking.evidence.policy import load_policy
from matchmaking.inputs.validate import validate_file
from matchmaking.reporting.html import html_report
from matchmaking.reporting.markdown import markdown_report
from matchmaking.reporting.text import text_report
from tests.pairs_fixtures import write


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


def test_warnings_name_the_spelling_that_was_meant(pairs: pd.DataFrame) -> None:
    known = {"city": sorted(set(pairs["city"]))}
    assert describe(pairs, [], known).warnings == []
    pairs.loc[:9, "city"] = ["DELHI", "Dehli", "Delhi\u200b", "D\u0435lhi", "new delhi"] * 2
    pairs.loc[10, "city"] = "Ahmedabad"
    (told,) = describe(pairs, [], known).warnings
    assert told.startswith("column 'city': 11 of 200 rows (5.5%) have a value that production's encoder doesn't know")
    for name in ("'DELHI' 2 rows (Delhi?)", "'Dehli' 2 rows (Delhi?)", "'Delhi\\u200b' 2 rows (Delhi?)"):
        assert name in told
    assert "and 1 more" in told and "Ahmedabad" not in told
    pairs.loc[:9, "city"] = "Ahmedabad"
    assert "'Ahmedabad' 11 rows" in describe(pairs, [], known).warnings[0]
    assert "Ahmedabad' 11 rows (" not in describe(pairs, [], known).warnings[0]


def test_repeated_rows_are_a_warning(pairs: pd.DataFrame) -> None:
    assert describe(pd.concat([pairs, pairs.head(3)]), [], None).warnings == [
        "3 of 203 rows repeat an earlier one exactly"
    ]


def test_a_column_that_says_nothing_to_the_encoder_is_refused(
    tmp_path: Path, incumbent: Path, pairs: pd.DataFrame
) -> None:
    upper = write(tmp_path, pairs.assign(city=pairs["city"].str.upper()))
    out = tmp_path / "pairs.parquet"
    with pytest.raises(InputError, match=r"^there: column 'city': 200 of 200 rows .*'DELHI' \d+ rows \(Delhi\?\)"):
        validate_file(upper, incumbent, out, source="there")
    assert not out.exists()
    # the data of now is what monitor is for: it is told there, and drifts
    report = validate_file(upper, incumbent, out, source="there", labelled=False)
    assert report["warnings"] and "DELHI" in report["warnings"][0]
    some = pairs.assign(city=pairs["city"].where(pairs.index >= 90, pairs["city"].str.upper()))
    assert validate_file(write(tmp_path, some), incumbent, out, source="there")["warnings"]
    # without a production model the encoder will be one of this data
    (tmp_path / "none").mkdir()
    assert validate_file(upper, tmp_path / "none", out, source="there")["warnings"] == []


@pytest.mark.parametrize("white", ["\t", "\n", "\xa0", "\u200b"])
def test_white_space_in_a_category_is_seen_wherever_it_is_told(white: str, pairs: pd.DataFrame) -> None:
    """`New\\tDelhi` and `New Delhi` are two cities; a warning that shows one for the other says nothing."""
    city = f"New{white}Delhi"
    wrong = pairs.assign(city=pairs["city"].mask(pairs.index < 9, city))
    (warning,) = describe(wrong, [], {"city": [*pairs["city"].unique(), "New Delhi"]}).warnings
    shown = f"'New{ascii(white)[1:-1]}Delhi' 9 rows (New Delhi?)"
    assert shown in warning
    summary = {"data": {"rows": 200, "positives": 20, "warnings": [warning]}, "reasons": [f"the data: {warning}"]}
    plain = text_report(summary) + html.unescape(html_report(summary))
    assert " ".join(plain.split()).count(shown) == 4
    assert shown.replace("\\", "\\\\") in markdown_report(summary)
    decision = {"verdict": "hold", "reasons": [], "policy": {}, "primary": {}}
    told = with_data(decision, {"rows": 200, "unseen": {}, "warnings": [warning]}, load_policy())
    assert shown in told["reasons"][0]


def test_what_is_counted_in_parts_is_what_is_counted_at_once(pairs: pd.DataFrame) -> None:
    known = {"city": ["Delhi", "Pune"], "location": ["Delhi"]}
    twice = pd.concat([pairs, pairs.iloc[[5, 150]]], ignore_index=True)
    counted = Tally(known)
    for start in range(0, len(twice), 60):
        counted.add(twice.iloc[start : start + 60].astype({"city": "category"}))
    report = counted.report([])
    assert report == describe(twice, [], known)
    assert report.duplicates == 2
    strange = twice.loc[~twice["city"].isin(known["city"]), "city"]
    assert list(report.unseen["city"].items()) == list(strange.value_counts().items())
