"""How production does on the pairs of now: the logs of predictions and outcomes, measured and estimated, and alerts.

A library so far, with its benchmarks (`make bench-observe`, `make bench-alerts`): no pipeline runs it yet.
"""
