"""Splits the dataset into training and held-out pairs."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def split(
    run_id: str,
    pairs: Input[Dataset],
    production_model: Input[Model],
    how: str,
    dataset_version: str,
    train: Output[Dataset],
    test: Output[Dataset],
    lineage: Output[Artifact],
):
    """Splits the dataset into training and held-out pairs.

    Args:
        run_id: the MLflow run.
        pairs: parquet.
        production_model: the production bundle, whose training pairs aren't held out; may be empty.
        how: "auto" (the split that production was trained under), "hash" or "stratified".
        dataset_version: md5 of the dataset.
        train: parquet.
        test: parquet.
        lineage: HDF5: which pairs train this candidate, as it carries it.
    """
    from pathlib import Path

    from matchmaking.tracking.step import step

    outputs = {"Held-out pairs": test, "Training pairs": train, "Lineage": lineage}
    with step("split", run_id, outputs, [pairs, production_model]):
        from matchmaking.inputs.split import split_file

        facts = split_file(
            Path(pairs.path),
            Path(production_model.path),
            Path(train.path),
            Path(test.path),
            Path(lineage.path),
            how=how,
            dataset_version=dataset_version,
        )
        if facts.assumed:
            from matchmaking.base.files import file_sha256
            from matchmaking.inputs.split import ASSUMED
            from matchmaking.model.production import MODEL
            from matchmaking.tracking import assume_training_data

            served = Path(production_model.path)
            told_so = (served / ASSUMED).exists()
            assume_training_data(run_id, file_sha256(served / MODEL), facts.assumed, told_so=told_so)
        train.metadata["rows"], test.metadata["rows"] = facts.train_rows, facts.test_rows
