"""``python -m dear_serving`` is the ``dear`` command."""

from dear_serving.cli import main

main()
