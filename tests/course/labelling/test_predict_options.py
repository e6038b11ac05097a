"""What `predict` may be asked for: half of the digits, and to refuse."""

from .helpers import read, run, write


def test_at_half_the_digits_the_encoder_of_the_process_stays_as_it_was(model, bag, tmp_path):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"], ["it is late"], [""]])
    run("predict", model, table, "--out", tmp_path / "out.csv")
    run("predict", model, table, "--out", tmp_path / "half.csv", "--bfloat16")
    assert [row[1] for row in read(tmp_path / "half.csv")] == ["label", "price", "parcel", ""]
    run("predict", model, table, "--out", tmp_path / "again.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_where_too_few_were_held_out_to_refuse_anything_that_is_said(model, tmp_path, capsys):
    table = write(tmp_path / "new.csv", [["text"], ["cheap"]])
    run("predict", model, table, "--out", tmp_path / "out.csv", "--reject", "0.05")
    assert "takes 19 held-out examples, and the classifier has 12" in capsys.readouterr().out
    run("predict", model, table, "--out", tmp_path / "out2.csv", "--reject", "0.1")
    assert "foreign" not in capsys.readouterr().out
