"""How a tool ends: codes that scripts can tell apart, and the error that ends it with one sentence."""

from __future__ import annotations

FAILED = 1
"""Failed: the sentence says why. (2 is a usage error, as typer gives it.)"""

PARTLY = 3
"""Done, except for what was named on stderr."""

MISSED = 4
"""Done, but an objective was missed or an order was invalid."""


class ToolError(Exception):
    """Ends the command with exit code 1 and this one sentence on stderr."""
