"""`python -m kanna`."""

from kanna.cli.main import cli

cli(prog_name="kanna")
