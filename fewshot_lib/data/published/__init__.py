"""Published sets: downloaded once, checked, in their split families."""
