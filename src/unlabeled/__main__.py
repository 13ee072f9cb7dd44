"""`python -m unlabeled` is the command line, also under `torchrun`."""

from unlabeled.cli import main

main()
