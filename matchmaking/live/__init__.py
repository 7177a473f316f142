"""How production does on the pairs of now: logs, windows, estimates, and alerts with a stated error."""
