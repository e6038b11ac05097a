"""``python -m fewshot_lib`` is the command ``fewshot``."""

import sys


def main() -> int | None:
    """Runs the command line; in a base install, says in one sentence what it needs."""
    try:
        from fewshot_lib.course import cli
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fewshot_lib"):
            raise
        sys.exit(f"The command needs the package {error.name}: pip install 'fewshot-lib[course]'.")
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
