"""Choosing a recipe: some are proposed, each is scored out of fold on the training pairs, one is chosen."""

# recipes that a sweep tries, where nothing else is asked for, and at most
TRIALS = 8
MOST_TRIALS = 200
