"""What is refused before anything of production is touched, and what a force may override."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchmaking.base.errors import InputError
from matchmaking.model import production
from matchmaking.release import audit, check
from matchmaking.release.package import CONTRACT, DECISION
from tests.promotion_fixtures import change_evidence, contents, promote, quiet, refused, rollback


def test_promoting_what_is_there_changes_nothing(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    assert check.prepare_promotion(packages[0], str(served), say=quiet).nothing


@pytest.mark.parametrize("verdict", ["hold", "reject"])
def test_another_verdict_is_refused_unless_forced_with_a_reason(
    served: Path, packages: list[str], verdict: str
) -> None:
    change_evidence(packages[0], DECISION, verdict=verdict, reasons=["recall is clearly worse"])
    before = contents(served)
    with refused(verdict, "recall is clearly worse"):
        promote(packages[0], served)
    with pytest.raises(InputError, match="--reason"):
        promote(packages[0], served, force=True, reason=" ")
    assert contents(served) == before
    entry = promote(packages[0], served, force=True, reason="an emergency")
    assert entry.why == "an emergency"
    assert verdict in entry.overridden[0]


def test_a_failed_contract_is_refused_and_named(served: Path, packages: list[str]) -> None:
    checks = [{"name": "held-out rows", "passed": False, "detail": "largest difference 1.0e-02"}]
    change_evidence(packages[0], CONTRACT, passed=False, checks=checks)
    for force in (False, True):
        with refused("could not serve", "held-out rows"):
            promote(packages[0], served, force=force, reason="all the same")
    assert not (served / ".mlops").exists()


def test_evidence_against_another_production_is_stale(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    with refused("compared with", "v20260101T000000Z"):
        promote(packages[1], served)
    promote(packages[1], served, force=True, reason="known to be fine")
    assert contents(served) == contents(Path(packages[1]))


@pytest.mark.parametrize("name", [*production.FILES, DECISION, CONTRACT])
def test_an_altered_package_is_refused_even_by_force(served: Path, packages: list[str], name: str) -> None:
    with (Path(packages[0]) / name).open("ab") as file:
        file.write(b" ")
    with refused(name, "sha256"):
        promote(packages[0], served, force=True, reason="all the same")


def test_a_contract_of_other_files_is_refused_even_by_force(served: Path, packages: list[str]) -> None:
    change_evidence(packages[0], CONTRACT, sha256=production.hashes(served))
    with refused("contract", "other files"):
        promote(packages[0], served, force=True, reason="all the same")


def test_other_encoders_are_no_drop_in_even_by_force(served: Path, packages: list[str]) -> None:
    with (served / production.SCALER).open("ab") as file:
        file.write(b" ")
    before = contents(served)
    with refused("scaler.pkl", "drop-in"):
        promote(packages[0], served, force=True, reason="all the same")
    assert contents(served) == before


def test_a_model_file_that_is_a_link_is_left_alone(served: Path, packages: list[str], tmp_path: Path) -> None:
    real = (served / production.MODEL).rename(tmp_path / "elsewhere.h5")
    (served / production.MODEL).symlink_to(real)
    before = real.read_bytes()
    with pytest.raises(InputError, match="symbolic link"):
        check.prepare_promotion(packages[0], str(served), say=quiet)
    with pytest.raises(InputError, match="symbolic link"):
        check.prepare_rollback(str(served), say=quiet)
    assert real.read_bytes() == before
    assert (served / production.MODEL).is_symlink()
    # nothing was begun
    assert not (served / ".mlops").exists()


@pytest.mark.parametrize("uri", ["", "no/such/folder", "s3://bucket/production"])
def test_a_place_that_is_no_folder_is_refused(uri: str, packages: list[str]) -> None:
    with pytest.raises(InputError):
        check.prepare_promotion(packages[0], uri, say=quiet)


def test_what_is_no_package_is_told(served: Path, incumbent: Path) -> None:
    with pytest.raises(InputError, match=r"isn't a package.*manifest\.json"):
        promote(str(incumbent), served)


@pytest.mark.parametrize(("name", "value"), [("MLOPS_RESTART_TIMEOUT", "soon"), ("MLOPS_RESTART_COMMAND", "sh -c 'x")])
def test_settings_that_would_fail_later_are_refused_first(
    served: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="MLOPS_RESTART"):
        promote(packages[0], served)


def test_a_rollback_with_other_encoders_is_refused(served: Path, packages: list[str]) -> None:
    promote(packages[0], served)
    with (served / production.SCALER).open("ab") as file:
        file.write(b" ")
    before = contents(served)
    with refused("no promotion to take back"):
        rollback(served)
    (entry,) = audit.history(str(served)).entries
    with refused("scaler.pkl changed since that backup", "model file alone"):
        rollback(served, to=str(entry.before.model)[:12])
    assert contents(served) == before
