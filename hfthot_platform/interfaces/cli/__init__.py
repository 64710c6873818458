"""The `hfthot` command line.

`app` holds the root command, its options and the treatment of errors; `tables`, `data` and `health` hold the
commands; `output` prints.  Everything heavy is imported inside the commands, so that help is instant.
"""

from hfthot_platform.interfaces.cli.app import app, main

__all__ = ["app", "main"]
