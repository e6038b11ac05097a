"""``python -m fewshot_lib`` is the command ``fewshot``."""

import sys
from types import ModuleType


def main() -> int | None:
    """Runs the command line; Ctrl-C is one sentence and status 130, also while modules are imported."""
    try:
        return _cli().main()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def _cli() -> ModuleType:
    """The command line; in a base install, says in one sentence what it needs."""
    try:
        from fewshot_lib.course import cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fewshot_lib"):
            raise
        sys.exit(f"The command needs the package {error.name}: pip install 'fewshot-lib[course]'.")
    return cli


if __name__ == "__main__":
    sys.exit(main())
