"""Sets made from what is installed."""
