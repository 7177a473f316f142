"""The matching model: its encoding, its three files, what an .h5 may hold, training, scoring, its lineage."""
