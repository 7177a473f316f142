"""The pipeline steps: a file each, with the step's typed KFP interface and one call into `matchmaking`."""
