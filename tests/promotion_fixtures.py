"""Packages and production folders for the tests of promotion, made without training: a model's bytes vary by a note."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py

from matchmaking.base.files import file_sha256
from matchmaking.evidence.metrics import SCALARS
from matchmaking.model import production
from matchmaking.model.train import TRAINING_RECORD
from matchmaking.release.package import CONTRACT, DECISION, MANIFEST, package_candidate


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


def package(bundle: Path, served: Path | None, candidates: Path, name: str) -> str:
    """Packages a bundle with good evidence; gives the package's URI."""
    metrics = dict.fromkeys(SCALARS, 0.9)
    compared = production.hashes(served) if served else {}
    contract = {"passed": True, "checks": [], "sha256": production.hashes(bundle), "compared_with": compared}
    verdict = "promote" if compared else "bootstrap"
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
