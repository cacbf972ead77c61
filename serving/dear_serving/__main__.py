"""The ``dear`` command, also as ``python -m dear_serving``."""

import sys
from typing import NoReturn

_OF_TOOLS = ("typer", "rich", "yaml", "aiohttp", "jinja2", "matplotlib", "numpy", "scipy", "ir_measures")
_OF_SERVER = (
    "vllm",
    "ray",
    "torch",
    "transformers",
    "fastapi",
    "safetensors",
    "psutil",
    "sqlalchemy",
    "alembic",
)


def main() -> NoReturn:
    """Run the command; if a package is missing, name the extra that installs it."""
    try:
        from dear_serving.cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OF_TOOLS:
            sys.exit(f"dear: {package} is not installed: pip install dear-serving[tools]")
        if package in _OF_SERVER:
            sys.exit(
                f"dear: {package} is not installed: pip install dear-serving[cpu], or [gpu], for a server"
            )
        raise


if __name__ == "__main__":
    main()
