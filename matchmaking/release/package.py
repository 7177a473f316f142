"""A candidate made ready to be promoted: a folder of its own, with a manifest that says what it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matchmaking import storage
from matchmaking.base.errors import InputError, RefusedError
from matchmaking.base.files import copy_file, file_sha256
from matchmaking.base.records import NewerError, RecordError, read_record
from matchmaking.base.redact import redact
from matchmaking.base.settings import code_version
from matchmaking.evidence.metrics import SCALARS
from matchmaking.model import keras_file, production
from matchmaking.model.train import TRAINING_RECORD
from matchmaking.release.records import Contract, Manifest, Verdict
from matchmaking.storage.operations import MANIFEST

DECISION = "decision.json"
CONTRACT = "contract.json"
CONTENTS = (*production.FILES, DECISION, CONTRACT, MANIFEST)
PROMOTABLE = frozenset({"promote", "bootstrap"})
# what is held can still win an experiment, which takes its files; what is rejected goes no further
PACKAGED = PROMOTABLE | {"hold"}
LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "scikit-learn", "numpy", "pandas")


@dataclass(frozen=True)
class Package:
    """A package that was brought here, whole and unaltered.

    Attributes:
        uri: where it was published.
        folder: the copy.
        manifest, decision, contract: its JSON files.
    """

    uri: str
    folder: Path
    manifest: Manifest
    decision: Verdict
    contract: Contract

    @property
    def eligible(self) -> bool:
        """Whether its evidence allows a promotion."""
        return self.decision.verdict in PROMOTABLE and self.contract.passed


def promotable(decision: Mapping[str, Any]) -> str:
    """How a candidate may be promoted: "automatic" (the policy lets its run do it), "by hand", or "no".

    Args:
        decision: what `decision.decide` gave.
    """
    if decision["verdict"] not in PROMOTABLE:
        return "no"
    return "automatic" if decision["automatic"] else "by hand"


def package_candidate(
    candidate_dir: Path,
    evaluation: dict[str, Any],
    decision: dict[str, Any],
    *,
    candidates_uri: str,
    timestamp: str,
    dataset_version: str,
) -> str:
    """Publishes a candidate that isn't rejected as `<candidates_uri>/v<timestamp>`.

    Args:
        candidate_dir: the candidate's bundle with its training record.
        evaluation: what `evaluation.evaluate_models` gave.
        decision: what `decision.decide` gave; only the verdicts in `PACKAGED` are published.
        candidates_uri: where candidates are kept.
        timestamp: the run's, UTC.
        dataset_version: md5 of the dataset.

    Returns:
        The URI of the package; empty for a candidate that isn't published. A package of the same bytes that is there
        already (the step was retried) is left as it is.

    Raises:
        InputError: the place cannot be written, or another package of that name is there.
    """
    if decision["verdict"] not in PACKAGED:
        return ""
    contract = evaluation["contract"]
    training = json.loads((candidate_dir / TRAINING_RECORD).read_text())
    described = {
        "version": f"v{timestamp}",
        "created": timestamp,
        "verdict": decision["verdict"],
        "sha256": production.hashes(candidate_dir),
        "compared_with": contract["compared_with"],
        "libraries": library_versions(),
        "saved_by_keras": keras_file.check_model_file(candidate_dir / production.MODEL)["keras_version"],
        "code_version": code_version(),
        "dataset_version": dataset_version,
        "split": evaluation.get("split"),
        "seed": training["recipe"]["seed"],
        "recipe": training["recipe"],
        "operating_point": {
            "probability": training["operating_point"],
            "logit_shift": training["logit_shift"],
            "meaning": "served as 0.5; what is near it, up to .55, is moved in its order, all else is as it was",
        },
        "encoders": "fitted on the training rows" if training["bootstrapped"] else "production's, byte for byte",
        "metrics": {
            name: {metric: evaluation[name][metric] for metric in SCALARS} if evaluation[name] else None
            for name in ("production", "candidate")
        },
    }
    uri = f"{candidates_uri.rstrip('/')}/v{timestamp}"
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        for name in production.FILES:
            copy_file(candidate_dir / name, staged / name)
        evidence = {DECISION: decision, CONTRACT: contract}
        for name, content in evidence.items():
            (staged / name).write_text(json.dumps(content, indent=1) + "\n")
        manifest = Manifest.model_validate(
            {**described, "evidence_sha256": {name: file_sha256(staged / name) for name in evidence}}
        )
        (staged / MANIFEST).write_text(manifest.as_json(indent=1) + "\n")
        try:
            return storage.publish(staged, uri)
        except InputError:
            mine = {name: file_sha256(staged / name) for name in CONTENTS}
            if storage.hash_bundle(uri, CONTENTS) != mine:
                raise
            return uri


def fetch_package(uri: str, folder: Path) -> Package:
    """Brings a package here and checks every file of it against its manifest.

    Raises:
        InputError: there is no package.
        RefusedError: a file isn't what was packaged.
    """
    try:
        found = storage.download_bundle(uri, CONTENTS, folder)
    except InputError as error:
        raise InputError(f"{redact(uri)} isn't a package, which holds {', '.join(CONTENTS)}") from error
    if not found:
        raise InputError(f"{redact(uri)} isn't a package: it holds none of {', '.join(CONTENTS)}")
    try:
        package = Package(
            uri,
            folder,
            read_record(Manifest, (folder / MANIFEST).read_bytes(), MANIFEST),
            read_record(Verdict, (folder / DECISION).read_bytes(), DECISION),
            read_record(Contract, (folder / CONTRACT).read_bytes(), CONTRACT),
        )
    except NewerError as error:
        raise NewerError(f"{redact(uri)}: {error}") from None
    except RecordError as error:
        raise RefusedError(f"{redact(uri)}: {error}; was the package altered? Train a new candidate") from None
    recorded: dict[str, str] = {**package.manifest.sha256, **package.manifest.evidence_sha256}
    altered = [name for name in CONTENTS[:-1] if file_sha256(folder / name) != recorded.get(name)]
    if altered:
        raise RefusedError(f"{redact(uri)}: {', '.join(altered)} changed after packaging (sha256)")
    if package.contract.sha256 != package.manifest.sha256:
        raise RefusedError(f"{redact(uri)}: its serving contract was checked on other files; train a new candidate")
    return package


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries a model depends on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
