"""sweep (on demand): try recipes on the training pairs, train a candidate by the best one, judge it as any other."""

from kfp import dsl

from components.choose import choose
from components.train import train
from components.trial import trial
from matchmaking.model.sweep import TRIALS
from matchmaking.model.sweep.propose import PARTS
from pipelines.memory import DEFAULT
from pipelines.pods import equip
from pipelines.retrain import begin, judge

# trials at a time, which KFP wants to know when it compiles. kfp.local has no more than two at a time
PARALLEL = 2


@dsl.pipeline(name="sweep", description="Try recipes, train a candidate by the best one and judge it.")
def sweep(
    data: str,
    production: str,
    candidates: str,
    trials: int = TRIALS,
    seed: int = 0,
    epochs: int = 0,
    split: str = "auto",
    production_data: str = "",
    policy: str = "",
    timestamp: str = "",
    memory: str = DEFAULT,
):
    """Tries recipes on the training pairs, trains a candidate by the best one, and judges it as `retrain` does.

    Args:
        data: URI of the dataset: CSV or Parquet, a file or parts.
        production: URI of the production folder; empty to bootstrap a first model.
        candidates: URI of the folder where packages go.
        trials: recipes to try, the default one among them; each takes about four times as long as a training.
        seed: of the recipes, the folds, the trainings and the bootstrap.
        epochs: passes over the training rows of the default recipe, at most; 0: its own. Of the others half to twice.
        split: how the held-out pairs are chosen: "auto" (none that trained production), "hash" or "stratified".
        production_data: URI of the dataset that production was trained on, if its model doesn't know; empty for `data`.
        policy: the promotion policy as YAML; empty for the default one.
        timestamp: UTC; empty for now.
        memory: request and limit of each step that holds the data, as in "6Gi"; see docs/cluster.md.
    """
    begun = begin(
        "sweep",
        data,
        production,
        {"algorithm": "interactions", "seed": seed, "split": split},
        split=split,
        production_data=production_data,
        timestamp=timestamp,
    )
    asked = {"trials": trials, "seed": seed, "epochs": epochs}
    with dsl.ParallelFor(list(range(PARTS)), parallelism=PARALLEL, name="trials") as part:
        tried = trial(
            run_id=begun.run_id,
            train_pairs=begun.train_pairs,
            production_model=begun.served,
            part=part,
            **asked,
        )
    chosen = choose(run_id=begun.run_id, results=dsl.Collected(tried.outputs["Output"]), **asked)
    trained = train(
        run_id=begun.run_id,
        train_pairs=begun.train_pairs,
        production_model=begun.served,
        lineage=begun.lineage,
        algorithm="interactions",
        seed=seed,
        epochs=0,
        batch_size=0,
        learning_rate=0.0,
        choice=chosen.outputs["choice"],
    )
    judge(begun, trained.outputs["candidate"], production, candidates, policy=policy, seed=seed)
    equip(memory)
