"""``python -m fewshot_lib`` is the command ``fewshot``."""

import sys

from fewshot_lib.cli import main

sys.exit(main())
