"""The matching model: its encoding, its three files, what an .h5 may hold, training, scoring, its lineage."""

from enum import StrEnum


class Algorithm(StrEnum):
    """What can be trained."""

    interactions = "interactions"
    dense = "dense"


ALGORITHMS = tuple(each.value for each in Algorithm)
