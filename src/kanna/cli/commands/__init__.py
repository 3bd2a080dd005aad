"""Each file of this folder is a command under its own name; it exports COMMAND."""
