"""retrain (weekly): train a candidate, decide on evidence whether it is better, package it unless it is rejected."""

from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.compare import compare
from components.evaluate import evaluate
from components.ingest import ingest
from components.promote import promote
from components.report import report
from components.split import split as split_pairs
from components.train import train
from components.validate import validate
from matchmaking.model.recipe import Recipe
from pipelines.memory import DEFAULT
from pipelines.pods import equip

DEFAULTS = Recipe()


@dataclass(frozen=True)
class Begun:
    """What the first steps have, for those that train a candidate and judge it; each an output of a task.

    Attributes:
        run_id: the MLflow run.
        served: production's bundle.
        production_sha256: of its files.
        data_report: what was noticed in the dataset.
        train_pairs, test_pairs: the split.
        lineage: which pairs train the candidate.
    """

    run_id: Any
    served: Any
    production_sha256: Any
    data_report: Any
    train_pairs: Any
    test_pairs: Any
    lineage: Any


def begin(
    pipeline: str,
    data: Any,
    production: Any,
    params: dict[str, Any],
    *,
    split: Any,
    production_data: Any,
    timestamp: Any,
) -> Begun:
    """The tasks with which a pipeline that trains a candidate begins; its parameters are those of `retrain`."""
    fetched = ingest(
        data=data,
        production=production,
        pipeline=pipeline,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        timestamp=timestamp,
        params=params,
        production_data=production_data,
    )
    run_id = fetched.outputs["run_id"]
    served = fetched.outputs["production_model"]
    valid = validate(run_id=run_id, raw=fetched.outputs["raw"], production_model=served, source=data)
    parts = split_pairs(
        run_id=run_id,
        pairs=valid.outputs["pairs"],
        production_model=served,
        how=split,
        dataset_version=fetched.outputs["dataset_version"],
    )
    return Begun(
        run_id,
        served,
        fetched.outputs["production_sha256"],
        valid.outputs["data_report"],
        parts.outputs["train"],
        parts.outputs["test"],
        parts.outputs["lineage"],
    )


def judge(begun: Begun, candidate: Any, production: Any, candidates: Any, *, policy: Any, seed: Any) -> None:
    """The tasks that judge a candidate, package it if it is better, and report: where the held-out pairs are looked at.

    The parameters are those of `retrain`.
    """
    measured = evaluate(
        run_id=begun.run_id, test_pairs=begun.test_pairs, production_model=begun.served, candidate=candidate
    )
    decided = compare(
        run_id=begun.run_id,
        scores=measured.outputs["scores"],
        evaluation=measured.outputs["evaluation"],
        data_report=begun.data_report,
        policy=policy,
        seed=seed,
    )
    reported = report(
        run_id=begun.run_id,
        production=production,
        production_sha256=begun.production_sha256,
        data_report=begun.data_report,
        evaluation=measured.outputs["evaluation"],
        decision=decided.outputs["decision"],
        candidate=candidate,
        candidates=candidates,
    )
    reported.set_display_name("Package it and write the report")
    # after the report, which proves that production didn't change until here
    with dsl.If(decided.outputs["Output"] == "automatic", name="auto-promote"):
        promote(
            run_id=begun.run_id,
            version=reported.outputs["Output"],
            production=production,
            production_sha256=begun.production_sha256,
        )


@dsl.pipeline(name="retrain", description="Train a candidate and decide on evidence whether it is better.")
def retrain(
    data: str,
    production: str,
    candidates: str,
    seed: int = DEFAULTS.seed,
    algorithm: str = DEFAULTS.algorithm,
    epochs: int = DEFAULTS.epochs,
    batch_size: int = DEFAULTS.batch_size,
    learning_rate: float = DEFAULTS.learning_rate,
    split: str = "auto",
    production_data: str = "",
    policy: str = "",
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Trains a candidate and decides on evidence whether it is better.

    Args:
        data: URI of the dataset: CSV or Parquet, a file or parts.
        production: URI of the production folder; empty to bootstrap a first model.
        candidates: URI of the folder where packages go.
        seed: of the training and of the bootstrap.
        algorithm: "interactions" or "dense".
        epochs: passes over the training rows, at most; 0: the algorithm's own.
        batch_size: rows a step; 0: the algorithm's own.
        learning_rate: the optimiser's first; 0: the algorithm's own.
        split: how the held-out pairs are chosen: "auto" (none that trained production), "hash" or "stratified".
        production_data: URI of the dataset that production was trained on, if its model doesn't know; empty for `data`.
        policy: the promotion policy as YAML; empty for the default one.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    begun = begin(
        "retrain",
        data,
        production,
        {"algorithm": algorithm, "seed": seed, "split": split},
        split=split,
        production_data=production_data,
        timestamp=timestamp,
    )
    trained = train(
        run_id=begun.run_id,
        train_pairs=begun.train_pairs,
        production_model=begun.served,
        lineage=begun.lineage,
        algorithm=algorithm,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    judge(begun, trained.outputs["candidate"], production, candidates, policy=policy, seed=seed)
    equip(memory)
