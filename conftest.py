"""What holds for every test run. Kernels inherit it, so it stands here, before any of them starts; your own setting wins."""

import os

for name, value in {
    "FEWSHOT_PROFILE": "smoke",  # the sizes that a test can afford
    "FEWSHOT_STATIC": "1",  # figures instead of widgets: nobody is there to move a slider
    "OMP_NUM_THREADS": "1",  # the number of threads changes results in the third digit, and test runs share the cores
    "MKL_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(name, value)
