"""The command line: thin, one module per command in `commands/`, imported when called."""
