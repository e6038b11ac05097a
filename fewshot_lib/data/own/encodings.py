"""The bytes of a text file, unpacked, and the encoding that turns them into text: named, marked, or guessed.

A byte order mark says what a file is, and text that is valid UTF-8 is hardly ever anything else. What is left
can only be guessed (charset_normalizer compares how likely the letters are), so a guess is always said; and a
file whose bytes are no text, or UTF-8 with a damaged place, is refused with the line and the byte.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_lib.data.reporting import DataError

# Longer marks first: that of UTF-32 begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# The encodings of files from before UTF-8 that are met at all; charset_normalizer knows many that are not.
OLD = (
    "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 koi8_r iso8859_2 iso8859_5 mac_roman "
    "mac_cyrillic cp850 cp866 cp874 cp932 euc_jp gb18030 big5 cp949"
).split()
ASIAN = {"cp932", "euc_jp", "gb18030", "big5", "cp949"}
# What Western Europe writes beyond ASCII, and the typography of Word; none of it where a byte of another
# encoding would put it: within a word. (õ is of Portuguese "põe"; elsewhere it may be the Hungarian ő.)
WESTERN = re.compile("[\x00-\x7fÀ-ÅÆ-ÏÑ-ÖØ-Üß-ïñ-öø-üÿŒœ€‘’“”„‚–—…•«»°§·¡¿®©™£½²´\xa0]*")
MISPLACED = re.compile("[a-zA-Z][“”„‚…¡¿«»£€°§½²´\xa0][a-zA-Z]|[a-z][À-Ü][a-z]|õ(?!e)|Õ(?![eE])")
# A single Chinese sign within a Latin word, or katakana of half width, come of reading with a wrong encoding.
NOT_ASIAN = re.compile("[a-zA-Z][^\x00-\x7f][a-zA-Z]|[\uff61-\uff9f]")
# Windows moved a few letters of these older encodings to the bytes that are controls there. Where no such
# byte occurs, and the Windows reading has signs in place of letters ("S±d", "©kola"), it is the older one.
OLDER = {"cp1250": "iso8859_2", "cp1253": "iso8859_7"}
FOR_LETTERS = re.compile("(?<=[^\\W\\d_])[±¶µ]|[©®¦¬¶](?=[^\\W\\d_A-Z])")
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
CHUNK = 1 << 20
MOST_BYTES = 1 << 31  # of a file when unpacked: 1 MB of zeros packs to 1 KB, and a trap is made of that
SAMPLE = 1 << 16
LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Text:
    """The bytes of a file without byte order mark, the codec that reads them, and a remark on a guess."""

    raw: bytes
    codec: str
    note: str = ""

    def lines(self, newline: str | None = None) -> Iterator[str]:
        """Line by line, decoded as it goes; ``newline`` as in ``open``."""
        return io.TextIOWrapper(io.BytesIO(self.raw), self.codec, newline=newline)

    def content(self) -> str:
        """All of it."""
        return self.raw.decode(self.codec)


def decode(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file and its encoding: the one given, or what :func:`as_text` finds."""
    text = as_text(path, unpacked(path), encoding)
    return text.content(), text.codec


def unpacked(path: Path) -> bytes:
    """The bytes of a file; of one that gzip, bzip2 or xz compressed (by its content), those inside."""
    with opened(path) as file:
        content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES and not isinstance(file, io.BufferedReader):
            found = f"unpacks to more than {MOST_BYTES / 2**30:g} GiB"
            raise DataError(f"{path} {found}: give a smaller part of it.")
        return content + file.read()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file to read unpacked bytes from. DataError for one that cannot be read, also within the block."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else ""
        raise DataError(f"{path} {what}: give a file." if what else f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(6)
        found = (opener for magic, opener in COMPRESSED.items() if start.startswith(magic))
        with next(found, open)(path, "rb") as content:
            yield content
    except PermissionError:
        raise DataError(f"{path} may not be read: change its permissions.") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be unpacked or read ({error}): it is damaged or cut short.") from None


def as_text(path: Path, raw: bytes, encoding: str | None = None) -> Text:
    """Which encoding these bytes of the file are in. DataError with line and byte where there is none."""
    mark, codec = next(((mark, codec) for mark, codec in MARKS.items() if raw.startswith(mark)), (b"", ""))
    note = ""
    if encoding is not None:
        known = _known(encoding)
        if codec and not codec.startswith(known):
            fix = "leave encoding=… out, or save the file anew"
            raise DataError(f"{path} begins with the mark of {codec}, and {encoding!r} is asked for: {fix}.")
        codec = codec or known
        if not codec.startswith("utf") and not raw.isascii() and first_bad(raw, "utf-8") is None:
            note = f"read as {encoding}, as asked for, but all of it is valid UTF-8: is that meant?"
    if not codec:
        return _without_mark(path, raw)
    text = raw[len(mark) :]
    if (bad := first_bad(text, codec)) is not None:
        raise _refused(path, text, bad, codec, len(mark))
    return Text(text, codec, note)


def _known(encoding: str) -> str:
    """Python's name of an encoding, or a ValueError."""
    try:
        name = codecs.lookup(encoding).name
        "".encode(encoding)  # zip, hex, rot13 are codecs too, but not of text
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError, TypeError):
        known = "'utf-8', 'utf-16', 'cp1252', 'latin-1', 'shift_jis', 'gb18030'"
        raise ValueError(f"`encoding` is {encoding!r}, which Python does not know; try {known}.") from None
    return {"utf-8-sig": "utf-8"}.get(name, name)


def _without_mark(path: Path, raw: bytes) -> Text:
    if wide := _wide(raw):
        return Text(raw, wide, f"read as {wide}, though no byte order mark says so")
    odd = len(CONTROL.findall(raw, 0, SAMPLE))
    if odd > 3 and odd * 50 > min(len(raw), SAMPLE):  # a few among many letters are named by their lines
        raise _no_text(path, raw)
    if b"\x1b$" in raw and first_bad(raw, "iso2022_jp") is None:
        return Text(raw, "iso2022_jp", "read as iso2022_jp: it has the marks of that encoding")
    if (bad := first_bad(raw, "utf-8")) is None:
        return Text(raw, "utf-8")
    codec = None if _mostly_utf8(raw) else _guess(raw, bad)
    if codec is None or first_bad(raw, codec) is not None:
        raise _refused(path, raw, bad, "utf-8")
    found = f"byte 0x{raw[bad]:02x} in line {_line(raw, bad, codec)} is not UTF-8"
    return Text(raw, codec, f"read as {codec}, which is a guess ({found}); encoding=… names another")


def first_bad(raw: bytes, codec: str) -> int | None:
    """Where the first byte stands that the codec cannot read; None if it reads them all."""
    decoder = codecs.getincrementaldecoder(codec)()
    for start in range(0, len(raw), CHUNK):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(raw[start : start + CHUNK], final=start + CHUNK >= len(raw))
        except UnicodeDecodeError as error:
            return start - pending + error.start
        except UnicodeError:  # idna and the like: they do not say where
            return start
    return None


def _wide(raw: bytes) -> str | None:
    """UTF-32 or UTF-16 without its mark: text in which every plain character brings zero bytes along."""
    start = raw[: 4 * SAMPLE]
    if start.count(0) * 100 < len(start):
        return None
    for codec in WIDE:
        text = start.decode(codec, "ignore")
        readable = sum(c.isprintable() or c.isspace() for c in text) >= 0.98 * len(text)
        if readable and re.search("[\n\r,;\t|{]", text) and first_bad(raw, codec) is None:
            return codec
    return None


def _mostly_utf8(raw: bytes) -> bool:
    """Whether it is UTF-8 with damaged places: what is no ASCII is, for the greater part, valid UTF-8."""
    bad = good = 0
    for start in range(0, len(raw), CHUNK):
        odd = re.findall("[^\x00-\x7f]", raw[start : start + CHUNK].decode("utf-8", "surrogateescape"))
        broken = sum("\udc80" <= c <= "\udcff" for c in odd)
        bad, good = bad + broken, good + len(odd) - broken
    return 2 * good >= bad


def _guess(raw: bytes, bad: int) -> str | None:
    """The likeliest of the old encodings around the first byte that is not UTF-8; None if none is likely."""
    start = raw.rfind(b"\n", 0, max(bad - SAMPLE, 0)) + 1
    end = raw.find(b"\n", start + 3 * SAMPLE)
    part = raw[start : end if end > 0 else len(raw)]
    # What is Western Europe's in cp1252 is letters of others in their encodings too: it comes first.
    western = part.decode("cp1252", "replace")
    odd = sum(byte > 0x7F for byte in part)
    if 4 * odd < len(part) and WESTERN.fullmatch(western) and not MISPLACED.search(western):
        return "cp1252"
    if odd < 3:
        return None
    from charset_normalizer import from_bytes  # here: slow to import

    matches = [
        match
        for match in from_bytes(part, cp_isolation=OLD, enable_fallback=False, preemptive_behaviour=False)
        if not (match.encoding in ASIAN and NOT_ASIAN.search(str(match)))
    ]
    first, second = [*matches, None, None][:2]
    if first and second and (first.chaos, first.coherence) == (second.chaos, second.coherence):
        return None if str(first) != str(second) else first.encoding
    return _older(first.encoding, part) if first else None


def _older(codec: str, part: bytes) -> str:
    """The guess, or its forerunner where the letters tell that from it."""
    if codec not in OLDER or re.search(b"[\x80-\x9f]", part):
        return codec
    return OLDER[codec] if FOR_LETTERS.search(part.decode(codec, "replace")) else codec


def _line(raw: bytes, position: int, codec: str) -> int:
    return len(LINE_END.findall(raw[:position].decode(codec, "replace"))) + 1


def _refused(path: Path, raw: bytes, bad: int, codec: str, offset: int = 0) -> DataError:
    where = f"{path}, line {_line(raw, bad, codec)}"
    byte = f"byte 0x{raw[bad]:02x} (number {bad + offset + 1} of the file)"
    fix = "Repair that place and save the file as UTF-8"
    if not offset:  # nothing but the wrong byte says what the file is
        fix += ", or name its encoding with encoding=… ('cp1252' in Western, 'cp1250' in Central Europe)"
    return DataError(f"{where}: {byte} is not {codec.upper()}. {fix}.")


def _no_text(path: Path, raw: bytes) -> DataError:
    first = CONTROL.search(raw)
    at = first.start() if first else 0
    where = f"{path}, line {_line(raw, at, 'latin-1')}"
    fix = "give a table as text (.csv, .jsonl) or .parquet"
    return DataError(f"{where}: this is no text but binary data (byte 0x{raw[at]:02x}): {fix}.")
