"""`python -m mlops.cluster`: see `commands`."""

from mlops.cluster.commands import main

main()
