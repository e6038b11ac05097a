"""What the README promises a reader who types it in."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_run(capsys):
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], {})
    assert re.search(r"prototypes, cosine: \d\d\.\d% ± .*5-way 1-shot.*\n.*is better than.*Euclidean", capsys.readouterr().out)


def test_every_file_it_names_is_there():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(targets) > 5 and all((ROOT / target).exists() for target in targets)


def test_every_chapter_stands_in_its_table():
    assert all(f"notebooks/{path.name}" in README for path in (ROOT / "notebooks").glob("*.ipynb"))
