"""The dataset of client-lawyer pairs: its schema, reading it, what it holds, drift, sample data, its versions."""
