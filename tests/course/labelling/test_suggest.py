"""`suggest` names rows of the pool."""

from .helpers import read, run, write


def test_suggestions_are_rows_of_the_pool(model, tmp_path, capsys):
    table = write(
        tmp_path / "pool.csv", [["id", "text"], [1, "cheap"], [2, "cheap late"], [3, ""], [4, "lost"]]
    )
    run("suggest", model, table, "-n", 2, "--out", tmp_path / "next.csv")
    assert "line 3: cheap late" in capsys.readouterr().out.splitlines()[0]
    header, first, _ = read(tmp_path / "next.csv")
    assert header == ["id", "text", "label"] and first == ["2", "cheap late", ""]
