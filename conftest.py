"""What holds for every test run."""

import os

import pytest

# Kernels inherit these, so they stand here, before any of them starts; your own setting wins.
for name, value in {
    "FEWSHOT_PROFILE": "smoke",  # the sizes that a test can afford
    "FEWSHOT_STATIC": "1",  # figures instead of widgets: nobody is there to move a slider
    "OMP_NUM_THREADS": "1",  # threads change results in the third digit, and tests share the cores
    "MKL_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share something stay on one worker, in order; the runs of notebooks share nothing.

    The cells of a notebook share its kernel, the tests of a module its fixtures. (xdist's own
    ``loadgroup`` says this with marks, which xdist 3.8 loses under pytest 9.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return nodeid if file.endswith("test_notebooks.py") else file

    return ByFile(config, log)
