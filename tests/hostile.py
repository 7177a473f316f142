"""Texts that do something where they are shown raw, and a dataset that holds them."""

from __future__ import annotations

import pandas as pd

from matchmaking.data.sample import generate

# what a script or a handler of the data would leave behind
RAN = "RAN-BY-DATA"
SCRIPT = f"</script><script>document.title='{RAN}'</script>"
HANDLER = f"<img src=x onerror=\"document.title='{RAN}'\">"
MARKDOWN = "![tracker](http://127.0.0.1:9/x.png) **b** | c <b>x</b> [l](http://127.0.0.1:9/)"
ESCAPES = "\x1b]0;OWNED\x07\x1b[2J\x1b[31mred"
MATHS = "$\\frac{1}{$ \u202eevil\u200b"
COMMENT = "<!--<script>"
TEXTS = (
    SCRIPT,
    HANDLER,
    MARKDOWN,
    ESCAPES,
    MATHS,
    COMMENT,
    "[bold]x[/bold]",
    "&lt;b&gt;",
    "# a\n- b",
    "1. `c`",
    "   - d",
    "+ e",
    "~~d~~",
)


def hostile_pairs(rows: int, seed: int = 1) -> pd.DataFrame:
    """Generated pairs; in each third row city and kind of case may be such a text, and one column is called so."""
    pairs = generate(rows, seed=seed)
    third = pairs.index % 3 == 0
    cities = {"Pune": SCRIPT, "Delhi": HANDLER, "Chennai": MARKDOWN, "Mumbai": ESCAPES, "Kolkata": MATHS}
    pairs.loc[third, "city"] = pairs.loc[third, "city"].replace(cities)
    pairs.loc[third, "location"] = pairs.loc[third, "location"].replace(
        {**cities, "Bengaluru": COMMENT, "Hyderabad": "[bold]x[/bold]"}
    )
    pairs.loc[third, "case_type"] = pairs.loc[third, "case_type"].replace(
        {"Tax": SCRIPT, "Fraud": MARKDOWN, "Divorce": ESCAPES}
    )
    pairs[f"{HANDLER}|{MARKDOWN}{ESCAPES}"] = 1
    return pairs
