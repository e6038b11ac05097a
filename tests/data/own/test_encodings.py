"""The encoding is the one named, marked or found, and a guess is said; what is no text is refused."""

import bz2
import gzip
import lzma
import os

import pytest

from fewshot_lib.data.own.encodings import CHUNK, as_text, decode, first_bad, unpacked
from fewshot_lib.data.reporting import DataError

FRENCH = "text,label\ncafé au lait,boisson\nDéjà vu à l’été,cinéma\n"
RUSSIAN = "текст,метка\nпривет как дела сегодня,разговор\nпогода хорошая и солнце светит,погода\n"
JAPANESE = "text,label\nこんにちは世界,挨拶\n今日は天気がいいですね,天気\n電車が遅れています,交通\n"
CHINESE = "text,label\n今天天气很好我们去公园,天气\n股票市场大幅下跌,财经\n足球比赛结果,体育\n"
KOREAN = "text,label\n안녕하세요 세계,인사\n오늘은 날씨가 좋습니다,날씨\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, CHINESE])
def test_unicode_in_any_form_is_read(tmp_path, text, encoding):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(encoding))
    found, used = decode(path)
    assert found == text and used.startswith(encoding.removesuffix("-sig"))
    marked = encoding in ("utf-8-sig", "utf-16", "utf-32")
    said = as_text(path, path.read_bytes()).note
    assert bool(said) == (not marked and encoding != "utf-8")
    # Named, it is read the same, mark or not.
    assert decode(path, "utf-16" if encoding == "utf-16" else encoding)[0] == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        ("text,label\nfine,a\nKöln,b\n", "cp1252"),
        ("text,label\nit costs 5 € or “more” – it’s iPhone,a\n", "cp1252"),
        ("text,label\nzażółć gęślą jaźń,a\nżółw idzie przez łąkę i śpiewa,b\n", "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        ("text,label\nκαλημέρα κόσμε,χαιρετισμός\nο καιρός είναι καλός σήμερα,καιρός\n", "cp1253"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (CHINESE, "gb18030"),
        ("text,label\n今天天氣很好我們去公園,天氣\n股票市場大幅下跌,財經\n", "big5"),
        (KOREAN, "euc_kr"),
    ],
)
def test_an_old_encoding_is_guessed_and_said(tmp_path, text, encoding):
    found = as_text(tmp_path / "x.csv", text.encode(encoding))
    assert found.content() == text
    assert found.note.startswith("read as ")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            "naïve,a\ncafé,b\n".encode() + b"abc\xffdef,c\n",
            "line 3: byte 0xff .number 21 of the file. is not UTF-8",
        ),
        (b"\xef\xbb\xbf" + b"a,b\r\nc\xffd,e\r\n", "line 2: byte 0xff .number 10 "),
        (b"\xef\xbb\xbf" + b"a,b\rc\xffd,e\r", "line 2: byte 0xff"),
        ("a,b\n".encode("utf-16") + b"\n\0\0\xd8a\0", "line 3: byte 0x00 .* is not UTF-16-LE"),
        (b"text,label\nK\x9aln,b\n", "line 2: byte 0x9a"),  # one odd byte: nobody knows
        (bytes(range(256)) * 20, "line 1: this is no text but binary data"),
    ],
)
def test_a_wrong_byte_is_named_with_its_line(tmp_path, raw, words):
    with pytest.raises(DataError, match=words):
        as_text(tmp_path / "x.csv", raw)


def test_a_file_that_is_marked_is_not_advised_another_encoding(tmp_path):
    with pytest.raises(DataError, match="save the file as UTF-8.$"):
        as_text(tmp_path / "x.csv", b"\xef\xbb\xbfa\xff,b\n")


def test_a_named_encoding_must_fit_and_exist(tmp_path):
    with pytest.raises(DataError, match="line 2: byte 0xff .* is not UTF-8"):
        as_text(tmp_path / "x", b"a\n\xff", "utf-8")
    with pytest.raises(DataError, match="is not ASCII"):
        as_text(tmp_path / "x", "é".encode(), "ascii")
    assert as_text(tmp_path / "x", "Kö".encode("cp850"), "cp850").content() == "Kö"
    for name in ("utf-9", "rot13", "hex", "", "a\0b"):
        with pytest.raises(ValueError, match="`encoding` is .* which Python does not know; try"):
            as_text(tmp_path / "x", b"a", name)


def test_a_named_encoding_that_the_file_contradicts_is_refused_or_questioned(tmp_path):
    for content, name in ("a,b".encode("utf-16"), "utf-8"), ("a,b".encode("utf-8-sig"), "cp1252"):
        with pytest.raises(DataError, match="begins with the mark of utf-.* leave encoding=… out"):
            as_text(tmp_path / "x", content, name)
    found = as_text(tmp_path / "x", "café".encode(), "cp1252")
    assert found.content() == "cafÃ©" and "all of it is valid UTF-8" in found.note
    assert not as_text(tmp_path / "x", b"cafe", "cp1252").note


def test_utf_16_of_long_chinese_texts_is_not_taken_for_binary(tmp_path):
    text = "text,label\n" + "今天天气很好我们去公园" * 9 + ",天气\n"
    assert as_text(tmp_path / "x", (text * 20).encode("utf-16-le")).codec == "utf-16-le"


def test_the_first_bad_byte_is_found_across_chunks():
    raw = ("é" * CHUNK).encode()
    assert first_bad(b"a" + raw, "utf-8") is None, "a character may lie across the cut"
    assert first_bad(b"a" + raw + b"\xff", "utf-8") == len(raw) + 1
    assert first_bad(b"a" + raw[:-1], "utf-8") == len(raw) - 1, "cut off at the end"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_file_is_unpacked_whatever_its_name(tmp_path, pack):
    for name in ("x.csv", "x.csv.gz"):
        (tmp_path / name).write_bytes(pack(b"a,b\n" * 100))
        assert unpacked(tmp_path / name) == b"a,b\n" * 100
    (tmp_path / "x.csv.gz").write_bytes(pack(os.urandom(1000))[:-100])
    with pytest.raises(DataError, match="x.csv.gz cannot be unpacked or read .* damaged or cut short"):
        unpacked(tmp_path / "x.csv.gz")


def test_what_is_no_file_is_called_what_it_is(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, words in {
        "folder.csv": "is a folder",
        "pipe.csv": "no regular file",
        "no.csv": "There is no",
    }.items():
        with pytest.raises(DataError, match=words):
            unpacked(tmp_path / name)


CZECH = (
    "déšť sníh vítr bouře řeka dům děti muž píseň kytara křídlo žák učitel tužka šťastný Škola Počasí Žena"
)
GREEK = "Άλλη μια καλή μέρα ο καιρός είναι καλός σήμερα βροχή χιόνι τραγούδι κιθάρα μυθιστόρημα Άθλημα Βιβλίο"


@pytest.mark.parametrize(
    ("older", "windows", "words"),
    [
        ("iso8859_2", "cp1250", CZECH),
        ("iso8859_7", "cp1253", GREEK),
    ],
)
def test_an_older_encoding_is_told_from_that_of_windows_by_letters_that_would_be_signs(
    tmp_path, older, windows, words
):
    path = tmp_path / "x.csv"
    words = words.split()
    text = "text,label\n" + "".join(f"{' '.join(words[i : i + 5])},{words[-i % 4 - 4]}\n" for i in range(12))
    for codec in (older, windows):
        path.write_bytes(text.encode(codec))
        assert decode(path) == (text, codec)


def test_hungarian_is_not_taken_for_western_letters(tmp_path):
    path = tmp_path / "x.csv"
    text = "text,label\nőszi eső,Időjárás\nregény és író,Könyv\n"
    path.write_bytes(text.encode("cp1250"))
    with pytest.raises(DataError, match="'cp1250' in Central Europe"):
        decode(path)
    assert decode(path, "cp1250") == (text, "cp1250")
    portuguese = "text,label\nos limões põe na mesa,Opiniões\n"
    path.write_bytes(portuguese.encode("cp1252"))
    assert decode(path) == (portuguese, "cp1252")


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch, packer):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(packer.compress(b"text,label\n" + b"0" * 1000))
    monkeypatch.setattr("fewshot_lib.data.own.encodings.MOST_BYTES", 1011)
    assert len(unpacked(path)) == 1011
    monkeypatch.setattr("fewshot_lib.data.own.encodings.MOST_BYTES", 1010)
    with pytest.raises(DataError, match="x.csv.gz unpacks to more than"):
        unpacked(path)
