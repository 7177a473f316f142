"""The MLflow Model Registry: each package is a version of `lawyer-match`, with its signature, decision and lineage.

The alias `challenger` is on the newest version that may be promoted, `champion` on the one that production serves.
A version's files are kept with the run that made it, below `model/`; the package itself is where the tag
`package_uri` says.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.data.schema import FEATURES, INTEGERS
from matchmaking.model import production
from matchmaking.release.package import Package, fetch_package, package_candidate
from matchmaking.tracking import client, told
from matchmaking.tracking.runs import TAG_LIMIT

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

MODEL = "lawyer-match"
CHALLENGER = "challenger"
CHAMPION = "champion"
REGISTRY = "can't be asked for the registered models"
# where a version's files are among the run's artifacts
FOLDER = "model"
# tag names, by production file
SHA256_TAGS = {
    production.MODEL: "model_sha256",
    production.ENCODER: "encoder_sha256",
    production.SCALER: "scaler_sha256",
}


@dataclass(frozen=True)
class Version:
    """A version in the registry."""

    number: str
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()

    @property
    def package_uri(self) -> str:
        return self.tags["package_uri"]


def available() -> bool:
    """Whether there is a registry to ask: MLFLOW_TRACKING_URI is set, and its SQLite file exists where it is one."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return bool(uri) and (not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists())


def publish_candidate(
    candidate: Path,
    evaluation: Path,
    decision: Path,
    *,
    run_id: str,
    candidates_uri: str,
    timestamp: str,
    dataset_version: str,
) -> str:
    """Publishes a candidate that isn't rejected and registers it; another is left alone.

    A step that is tried again finds what it has published and registered, and leaves it as it is.

    Args:
        candidate: the bundle with its training record.
        evaluation: JSON file.
        decision: JSON file.
        run_id: the MLflow run that made it.
        candidates_uri: where candidates are kept.
        timestamp: the run's, UTC.
        dataset_version: md5 of the dataset.

    Returns:
        The package's URI; empty where there is none.

    Raises:
        InputError: the place cannot be written, or another package of that name is there.
        TrackingError: the server or its artifact store cannot be reached, after the retries.
    """
    uri = package_candidate(
        candidate,
        json.loads(evaluation.read_text()),
        json.loads(decision.read_text()),
        candidates_uri=candidates_uri,
        timestamp=timestamp,
        dataset_version=dataset_version,
    )
    if uri:
        # what is registered is what was published, read back
        with tempfile.TemporaryDirectory() as folder:
            register(fetch_package(uri, Path(folder)), run_id)
    return uri


def register(package: Package, run_id: str) -> str:
    """Registers a package, and gives its version number; the same package again gives the same version.

    Args:
        package: the package.
        run_id: the MLflow run that made it.

    Raises:
        TrackingError: the server or its artifact store cannot be reached, after the retries.
    """
    with told(REGISTRY):
        found = _of_package(package.uri)
        version = found[0] if found else _create(package, run_id)
        if package.eligible:
            newest = max((int(known.version) for known in map(_alias, (CHALLENGER, CHAMPION)) if known), default=0)
            if int(version.version) > newest:
                client().set_registered_model_alias(MODEL, CHALLENGER, str(version.version))
        return str(version.version)


def find(version: str) -> Version:
    """A version by its number, its package's name (v20260131T235959Z) or URI; empty for the challenger.

    Raises:
        InputError: there is no such version.
        TrackingError: the server cannot be reached.
    """
    _must_be_available()
    with told(REGISTRY):
        if not version:
            found = _alias(CHALLENGER)
            if found is None:
                raise InputError(
                    f"no candidate waits to be promoted (no version of {MODEL} has the alias {CHALLENGER}): the newest "
                    "is in production or was there; name one that `mlops candidates` lists, to promote it anyway"
                )
            return Version(str(found.version), dict(found.tags))
        known = _search(f"version_number = {version}") if version.isdecimal() else _of_package(version)
        for found in known:
            return Version(str(found.version), dict(found.tags))
    raise InputError(f"{redact(version)}: {MODEL} has no such version; `mlops candidates` lists them")


def versions(most: int = 20) -> list[Version]:
    """The newest versions with their aliases, newest first; none where nothing was packaged yet.

    Raises:
        InputError: there are no MLflow records.
        TrackingError: the server cannot be reached.
    """
    _must_be_available()
    with told(REGISTRY):
        if not (found := _search()[:most]):
            return []
        aliases = client().get_registered_model(MODEL).aliases
        return [
            Version(
                str(version.version),
                dict(version.tags),
                tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))),
            )
            for version in found
        ]


def set_champion(model_sha256: str, version: str | None = None) -> str | None:
    """Moves the alias `champion` to the version production serves, and takes `challenger` off it.

    Args:
        model_sha256: of the model file in production.
        version: the version's number, where it is known.

    Returns:
        The version's number; None (and no champion) where the registry has no version of that file.

    Raises:
        TrackingError: the server cannot be reached.
    """
    with told(REGISTRY):
        found = _search(f"tags.{SHA256_TAGS[production.MODEL]} = '{model_sha256}'")
        numbers = [str(known.version) for known in found]
        if not numbers:
            if _alias(CHAMPION):
                client().delete_registered_model_alias(MODEL, CHAMPION)
            return None
        chosen = version if version in numbers else numbers[0]
        client().set_registered_model_alias(MODEL, CHAMPION, chosen)
        challenger = _alias(CHALLENGER)
        if challenger and str(challenger.version) == chosen:
            client().delete_registered_model_alias(MODEL, CHALLENGER)
        return chosen


def signature() -> ModelSignature:
    """What a version takes and gives: the service's payload with all fields, and its answer."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def kind(name: str) -> DataType:
        if name in INTEGERS or name == "urgency_level":
            return DataType.long
        words = ("case_type", "location", "preferred_language", "specialization", "city")
        return DataType.string if name in words else DataType.double

    return ModelSignature(
        inputs=Schema([ColSpec(kind(name), name) for name in FEATURES]),
        outputs=Schema([ColSpec(DataType.double, "match_probability"), ColSpec(DataType.long, "match_result")]),
    )


def _must_be_available() -> None:
    if not available():
        raise InputError("there are no MLflow records here yet; run retrain first, or say --work-dir where they are")


def _create(package: Package, run_id: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as folder:
        Model(signature=signature(), run_id=run_id).save(str(Path(folder) / "MLmodel"))
        client().log_artifact(run_id, str(Path(folder) / "MLmodel"), FOLDER)
    client().log_artifacts(run_id, str(package.folder), FOLDER)
    try:
        client().create_registered_model(MODEL, description="Matches clients with lawyers: a drop-in for production.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # a server takes only sources below the run's artifacts, wherever those are
    source = f"{client().get_run(run_id).info.artifact_uri}/{FOLDER}"
    return client().create_model_version(MODEL, source, run_id=run_id, tags=_tags(package, run_id))


def _tags(package: Package, run_id: str) -> dict[str, str]:
    manifest, decision = package.manifest, package.decision
    primary = decision.primary
    tags: dict[str, Any] = {
        "package": manifest.version,
        "package_uri": package.uri,
        "run_id": run_id,
        "dataset_version": manifest.dataset_version,
        "code_version": manifest.code_version,
        "seed": manifest.seed,
        "verdict": decision.verdict,
        "reasons": "; ".join(decision.reasons),
        "primary_metric": primary.metric,
        "primary_production": primary.production,
        "primary_candidate": primary.candidate,
        "contract": "passed" if package.contract.passed else "failed",
        "compared_with_sha256": manifest.compared_with.get(production.MODEL, ""),
        **{tag: manifest.sha256[name] for name, tag in SHA256_TAGS.items()},
    }
    return {name: str(value)[:TAG_LIMIT] for name, value in tags.items() if value is not None}


def _search(condition: str = "") -> list[ModelVersion]:
    """The versions a condition holds for, newest first."""
    found = client().search_model_versions(f"name = '{MODEL}'" + (f" and {condition}" if condition else ""))
    return sorted(found, key=lambda version: -int(version.version))


def _of_package(package: str) -> list[ModelVersion]:
    """The versions of a package, by its name or URI; compared here, as a path may hold what a filter can't."""
    tag = "package_uri" if "/" in package else "package"
    name = package.rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+", name):
        return []
    return [version for version in _search(f"tags.package = '{name}'") if version.tags.get(tag) == package]


def _alias(alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client().get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        # MLflow has either code for an alias nothing has, and one for a model that isn't there
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise
