"""What a container is given of folders with links in them; that it sees this, tests/services show."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchmaking.base.errors import InputError
from mlops.local import containers


def test_what_links_lead_to_is_seen_as_well(tmp_path: Path) -> None:
    """Each at the place where the link says that it is; nothing beside it."""
    for name in ("parts/a.csv", "parts/_kept/a.csv", "away/b.csv", "away/other.csv", "deep/v1/c.csv", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    parts = tmp_path / "parts"
    assert containers.seen_by(parts) == [parts]
    links = {
        "parts/b.csv": tmp_path / "hop.csv",
        "hop.csv": "away/b.csv",
        "parts/here.csv": "_kept/a.csv",
        "parts/folder": "../deep/v1",
        "deep/v1/d.csv": "../d.csv",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert containers.seen_by(parts) == [parts, tmp_path / "hop.csv", tmp_path / "deep/v1", tmp_path / "deep/d.csv"]
    assert containers.seen_by(parts / "?.csv") == [parts, tmp_path / "hop.csv"]
    assert containers.seen_by(parts / "[a]*.csv") == [parts]
    assert containers.seen_by(tmp_path / "none") == containers.seen_by(tmp_path / "none" / "*.csv") == []
    # from the place of the link, .. is another folder than from where it leads to
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/e.csv").write_text("x")
    (tmp_path / "far/away/e.csv").symlink_to("../e.csv")
    (tmp_path / "by").symlink_to("far/away")
    (parts / "by").symlink_to(tmp_path / "by")
    with pytest.raises(InputError, match=r"by/e\.csv is a link that leads elsewhere in a container"):
        containers.seen_by(parts)


def test_links_without_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(containers.MOST_LINKED + 1):
        (tmp_path / f"{number}.csv").write_text("x")
        (tmp_path / "parts" / f"{number}.csv").symlink_to(f"../{number}.csv")
    with pytest.raises(InputError, match="101 links lead out of it"):
        containers.seen_by(tmp_path / "parts")
