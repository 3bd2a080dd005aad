"""`python -m kanna`."""

import os
import sys

if sys.path and sys.path[0] == os.getcwd():  # noqa: PTH109 - pathlib could come from there
    del sys.path[0]  # what lies in the working folder may be a stranger's

from kanna.cli.main import cli  # noqa: E402

cli(prog_name="kanna")
