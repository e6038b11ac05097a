"""Encodings and separators are found and said, and a bad file is refused by its place."""

import pytest

from fewshot_lib.course.labelling import inputs

from .helpers import read, run


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"a,b\n1,2\n", [], "has the columns 'a', 'b', and which of them holds the texts is not clear"),
        (b"a,b\n1,2\n", ["--text", "c"], "'c' is asked for"),
        (b"text,text\n1,2\n", [], "several columns 'text'"),
        (b"review,title\n1,2\n", [], "the text may be 'review' or 'title'"),
        (b"Where is it?\nAnd that?\n", [], "which of them holds the texts is not clear"),
        (b"text,b\na\0b,2\n", [], r"line 2: 'text' holds U\+0000, which is no character"),
        (b'{"text": "a"}\n{"text": ["b"]}\n', [], "line 2: 'text' is .*neither a string nor a number"),
        (b'{"text": "a"}\n{"text": "b"\n', [], "line 2: not JSON"),
        (b'{"text": "a", "text": "b"}\n', [], "line 1: 'text' stands there twice"),
        (b'[{"text": "a"}', [], "the file is cut short"),
        (b'[{"text": "a"}, 7]', [], "line 1: not a JSON object"),
        (b'{"text": ["a", "b"], "id": [1]}', [], "not a table of equally long columns"),
        (b'{"columns": ["text"], "data": [["a", "b"]]}', [], "row 1: not a JSON object but an array"),
        (b"[]", [], r"holds no rows with names: write one object a line"),
        (b"{}\n{}\n", [], r"holds no rows with names: write one object a line"),
        (b"PAR1", [], "is no whole parquet file"),
        (b"PK\x03\x04", [], "Excel"),
        (b'text\n"open\n', [], "must be quoted whole"),
        (b"text,b\n1,2\n1,2,3\n", [], "line 3: 3 fields, but the header names 2"),
        (b"text\nok\ncaf\xe9\n", ["--encoding", "utf-8"], "line 3: byte 0xe9"),
        (b"text\nok\n", ["--encoding", "utf-99"], "Python does not know"),
        (b"text\nok\n", ["--reject", "3"], "`--reject` is 3"),
    ],
)
def test_a_bad_file_is_refused_before_a_row_is_written(model, tmp_path, content, options, message):
    (tmp_path / "new.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "out.csv", *options)
    assert not list(tmp_path.glob("out.csv*"))


def test_tabs_and_an_encoding_by_name(model, tmp_path):
    (tmp_path / "new.tsv").write_bytes("nr\tTitle\n1\tcheap café\n".encode("cp1252"))
    command = ["--text", "Title", "--encoding", "cp1252", "--out", tmp_path / "out.csv"]
    run("predict", model, tmp_path / "new.tsv", *command)
    assert read(tmp_path / "out.csv")[1][:3] == ["1", "cheap café", "price"]


def test_encodings_and_separators_are_found_as_in_data_load_and_said(model, tmp_path, capsys):
    (tmp_path / "new.csv").write_bytes("Nr;Title\n1;cheap it, café\n2;\u200b\n;\n\n".encode("utf-16"))
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "wide.csv")
    found = read(tmp_path / "wide.csv")
    assert found[1][:3] == ["1", "cheap it, café", "price"]
    assert found[2:] == [["2", "\u200b", "", "", ""], ["", "", "", "", ""]]
    heard = capsys.readouterr()
    assert "1 rows labelled, 2 without a text" in heard.out and "'Title' is read as the text" in heard.err
    (tmp_path / "old.csv").write_bytes("text\ncheap café\n".encode("cp1252"))
    run("predict", model, tmp_path / "old.csv", "--out", tmp_path / "old_out.csv")
    assert read(tmp_path / "old_out.csv")[1][0] == "cheap café"
    assert "read as cp1252, which is a guess" in capsys.readouterr().err


# In each of them: the lines of a file, the rows that it holds
KEPT = {
    "one column, empty lines": ("text\ncheap\n\n\nlate, a; or | b\n \n\n", "cheap|||late, a; or | b| |"),
    "one column, quoted": ('text\n"cheap, late"\n""\n', "cheap, late|"),
    "blanks around": ("id,text, note \n 1,  cheap ,\tx\n2 , late,  \n", " 1:  cheap :\tx|2 : late:  "),
    "marks behind blanks": ('id, text\n1, "cheap, late"\n2, "  late"\n', "1:cheap, late|2:  late"),
    "marks of a text": ('id,text\n1, "cheap" he said\n2,  late\n', '1: "cheap" he said|2:  late'),
    "quoted marks behind blanks": ('id,text\n1," ""cheap"""\n2,  late\n', '1: "cheap"|2:  late'),
    "only separators": ("id,text,x\n1,cheap,2\n,,\n,\n,,,\n3,late,4\n\n", "1:cheap:2|::|::|::|3:late:4"),
    "breaks in a text": ('text;id\r\n"cheap\r\n\r\nlate";1\r\n"a\nb";2\r\n', "cheap\r\n\r\nlate:1|a\nb:2"),
    "tabs without quoting": ('id\ttext\n1\t"cheap" it is\n2\t "late\n', '1:"cheap" it is|2: "late'),
}


@pytest.mark.parametrize(("content", "expected"), KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("large", [False, True])
def test_rows_come_back_as_they_stand(model, tmp_path, monkeypatch, content, expected, encoding, large):
    if large:
        monkeypatch.setattr(inputs, "LARGE", 8)  # bytes: the rest is read from the disk
    (tmp_path / "new.csv").write_bytes(content.encode(encoding))
    run("predict", model, tmp_path / "new.csv", "--out", tmp_path / "out.csv")
    header, *found = read(tmp_path / "out.csv")
    assert "|".join(":".join(row[:-3]) for row in found) == expected
    place = header.index("text")
    assert all(bool(row[-3]) == bool(row[place].strip()) for row in found), "what has a text has a label"
