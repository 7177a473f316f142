"""How production does on the pairs of now: the logs of predictions and outcomes, measured and estimated, and alerts."""

from enum import StrEnum


class Window(StrEnum):
    """How long a window is."""

    day = "day"
    week = "week"
    month = "month"
