"""Run the command line as `python -m tinyohem_cli`, as torchrun does."""

from tinyohem_cli.main import run

run()
