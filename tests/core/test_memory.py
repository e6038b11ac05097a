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
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages(), 5 * 2**26 // resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="where there is no glibc nothing changes")
def test_blocks_of_64_mb_cost_their_pages_once():
    done = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keeps=keeps)], capture_output=True, text=True, check=True
        )
        for keeps in (True, False)
    ]
    (kept, needed), (mapped_anew, _) = [map(int, each.stdout.split()) for each in done]
    assert kept < needed / 100 < mapped_anew
