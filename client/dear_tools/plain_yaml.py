"""YAML as people write it by hand: no aliases, nested to a bounded depth."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_DEPTH = 50


def load_yaml(text: str) -> Any:
    """A YAML document's value, in time and memory that its length bounds.

    Raises:
        yaml.YAMLError: not YAML, or it has aliases, or it is nested too deep.
        ValueError: an impossible date.
    """
    return yaml.load(text, _PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """Aliases let a file of some hundred bytes stand for gigabytes; depth is a recursion of the loader's."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=mark)
        if self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH}", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
