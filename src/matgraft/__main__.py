"""``python -m matgraft``."""

from matgraft.cli.main import main

main()
