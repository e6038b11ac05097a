"""A process that keeps its memory is not handed out the pages of a large block again and again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from fewshot_lib.core import keep_memory
if {keeps}:
    keep_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages(), 40 * 2**26 // resource.getpagesize())
"""


LIBRARY, VERSION = platform.libc_ver()
ABLE = LIBRARY == "glibc" and [*map(int, VERSION.split("."))] >= [2, 35]


@pytest.mark.skipif(not ABLE, reason="only glibc, and from 2.35 on, keeps blocks of more than 32 MB")
def test_blocks_of_64_mb_cost_their_pages_once():
    done = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keeps=keeps)], capture_output=True, text=True, check=True
        )
        for keeps in (True, False)
    ]
    (kept, needed), (mapped_anew, _) = [map(int, each.stdout.split()) for each in done]
    # a small object may settle in a freed block, and the next large one then needs a place of its own
    assert kept < needed / 4 < needed / 2 < mapped_anew
