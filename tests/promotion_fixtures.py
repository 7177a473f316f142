"""Packages and production folders for the tests of promotion, made without training: a model's bytes vary by a note."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from matchmaking.base.errors import RefusedError
from matchmaking.base.files import file_sha256
from matchmaking.evidence.metrics import SCALARS
from matchmaking.model import production
from matchmaking.model.train import TRAINING_RECORD
from matchmaking.release import check
from matchmaking.release.package import CONTRACT, DECISION, MANIFEST, package_candidate
from matchmaking.release.promote import apply
from matchmaking.release.store.local import LocalStore


def variant(bundle: Path, target: Path, note: str) -> Path:
    """A bundle of the same model whose .h5 has other bytes."""
    target.mkdir(parents=True)
    for name in production.FILES:
        shutil.copyfile(bundle / name, target / name)
    with h5py.File(target / production.MODEL, "a") as file:
        file.attrs["note"] = note
    record = {"recipe": {"seed": 0}, "operating_point": 0.5, "logit_shift": 0.0, "bootstrapped": False}
    (target / TRAINING_RECORD).write_text(json.dumps(record))
    return target


def package(bundle: Path, served: Path | None, candidates: Path, name: str, verdict: str = "") -> str:
    """Packages a bundle, with good evidence if no other verdict is given; gives the package's URI."""
    metrics = dict.fromkeys(SCALARS, 0.9)
    compared = production.hashes(served) if served else {}
    contract = {"passed": True, "checks": [], "sha256": production.hashes(bundle), "compared_with": compared}
    verdict = verdict or ("promote" if compared else "bootstrap")
    primary = {"metric": "average_precision", "production": 0.8 if compared else None, "candidate": 0.9}
    decision = {"verdict": verdict, "reasons": ["it is better"], "primary": primary, "rows": 1000}
    return package_candidate(
        bundle,
        {"production": metrics if compared else None, "candidate": metrics, "contract": contract},
        decision,
        candidates_uri=str(candidates),
        timestamp=name.removeprefix("v"),
        dataset_version="0" * 32,
    )


def change_evidence(uri: str, name: str, **values: Any) -> None:
    """Alters the evidence in a package as a run that came to another result would have written it."""
    path, manifest_path = Path(uri) / name, Path(uri) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    manifest = json.loads(manifest_path.read_text())
    manifest["evidence_sha256"] = {name: file_sha256(Path(uri) / name) for name in (DECISION, CONTRACT)}
    manifest_path.write_text(json.dumps(manifest))


def quiet(text: str) -> None:
    pass


def promote(version: str, folder: Path, **options: Any) -> dict[str, Any]:
    return apply(check.prepare_promotion(version, str(folder), say=quiet, **options), say=quiet)


def rollback(folder: Path, **options: Any) -> dict[str, Any]:
    return apply(check.prepare_rollback(str(folder), say=quiet, **options), say=quiet)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in production.FILES}


def refused(*words: str) -> Any:
    return pytest.raises(RefusedError, match=".*".join(words))


def cut_off(change: check.Change, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a change whose process dies before it writes the model into a folder of this name."""

    class Killed(BaseException):
        pass

    real = LocalStore._write

    def die(self: LocalStore, path: Path, data: bytes, like: Any) -> None:
        if path.name == production.MODEL and folder in (path.parent.name, path.parent.parent.name):
            raise Killed
        real(self, path, data, like)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "_write", die)
        patch.setattr("matchmaking.release.promote.recover_change", lambda store, say: None)
        with pytest.raises(Killed):
            apply(change, say=quiet)
