"""The right answers in a form that holds no text of them, for the students' edition.

Until ``check`` accepts the learner's function, a notebook uses the reference, so the reference must run on
the learner's machine; and what runs there can be read by anyone who sets out to. Sealing therefore is a
curtain: nobody meets an answer by opening a file, by ``answers.f??`` or by searching the folder. With a word
that the teacher keeps, and hands out in the room, it is a lock until then. What counts for a mark is computed
elsewhere (:mod:`.grading`), where the reference is not.

    sealed = nonce, compressed text XOR SHAKE-256(scrypt(word, nonce))
"""

import hashlib
import os
import secrets
import zlib
from pathlib import Path
from types import ModuleType

SUFFIX, WORD, NONCE_BYTES = ".sealed", "FEWSHOT_WORD", 16


def _stream(word: str, nonce: bytes, length: int) -> bytes:
    key = hashlib.scrypt(word.strip().encode(), salt=nonce, n=2**12, r=8, p=1)
    return hashlib.shake_256(key + nonce).digest(length)


def _mixed(data: bytes, word: str, nonce: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, _stream(word, nonce, len(data)), strict=True))


def seal(text: str, word: str = "") -> bytes:
    """The text, for :func:`unseal` with the same word alone; without a word for anyone who calls it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + _mixed(zlib.compress(text.encode(), 9), word, nonce)


def unseal(sealed: bytes, word: str = "") -> str:
    """The text; ValueError where the word is another."""
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return zlib.decompress(_mixed(rest, word, nonce)).decode()
    except (zlib.error, UnicodeDecodeError):
        fix = f"ask for the word of your class, and start with {WORD} set to it"
        raise ValueError(f"The exercises of this edition are locked: {fix}.") from None


def opened(file: Path, name: str) -> ModuleType:
    """The module whose sealed text is in the file. No file holds it, so no tool can print its source."""
    module = ModuleType(name)
    text = unseal(file.read_bytes(), os.environ.get(WORD, ""))
    exec(compile(text, f"<{file.stem}, sealed>", "exec"), module.__dict__)
    return module
