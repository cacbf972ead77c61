"""The ``dear`` command, also as ``python -m dear_serving``."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command; where only the light client is installed, say how to get the server."""
    try:
        from dear_serving.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"dear: the server's packages are not installed (no {error.name}); install dear-serving[cpu]"
        )
    run()


if __name__ == "__main__":
    main()
