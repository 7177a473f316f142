"""The page's script: made once, made again for other charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchmaking.reporting.dashboard import assets


def test_a_built_file_of_other_charts_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "assets.json"
    monkeypatch.setattr(assets, "BUILT", built)
    monkeypatch.setattr("sys.argv", ["assets", str(built)])
    assets.main()
    assets.load.cache_clear()
    made = assets.load()
    assert "vegaEmbed" in made.library and set(made.specifications) >= {"live", "drift", "candidates", "runs", "steps"}
    monkeypatch.setattr(assets, "make", lambda: made)
    other = tmp_path / "charts.py"
    other.write_text("other")
    monkeypatch.setattr(assets, "CHARTS", other)
    assets.load.cache_clear()
    built.write_text(built.read_text().replace("vegaEmbed", "stale"))
    assert "vegaEmbed" in assets.load().library
    assets.load.cache_clear()


def test_what_was_made_for_a_page_is_kept_for_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = assets.load()
    asked: list[None] = []

    def make() -> assets.Assets:
        asked.append(None)
        return made

    monkeypatch.setattr(assets, "make", make)
    for folder, times in ((tmp_path, 1), (tmp_path / "that is not there", 2)):
        monkeypatch.setattr(assets, "BUILT", folder / "assets.json")
        asked.clear()
        for _ in range(2):
            assets.load.cache_clear()
            assert assets.load() == made
        assert len(asked) == times
    assets.load.cache_clear()
