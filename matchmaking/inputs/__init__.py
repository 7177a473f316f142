"""What a run begins with, once data and model are known: bringing them here, checking them, splitting the pairs."""

from enum import StrEnum


class Split(StrEnum):
    """How the held-out pairs are chosen."""

    auto = "auto"
    stratified = "stratified"
    hash = "hash"


SPLITS = tuple(each.value for each in Split)
