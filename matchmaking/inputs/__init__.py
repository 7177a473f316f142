"""What a run begins with, once data and model are known: bringing them here, checking them, splitting the pairs."""
