"""Running notebooks from the command line."""
