"""RESULTS.md: the cells that ``benchmarks/field.py`` measured, in tables whose every number was computed."""
