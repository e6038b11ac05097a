"""Where the course is, for the tests of the classroom."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[!.]*.ipynb"))
