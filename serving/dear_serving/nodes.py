"""The machines of the Ray cluster."""

from __future__ import annotations

import ray


def this_node() -> str | None:
    """The id of the Ray node that this process is on; None outside of Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None


def count_nodes() -> int:
    """How many machines the cluster has now; 1 outside of Ray."""
    return sum(bool(node["Alive"]) for node in ray.nodes()) if ray.is_initialized() else 1


def is_elsewhere(home: str | None) -> bool:
    """Whether this process is on another node than ``home``, where the application was built."""
    return home is not None and this_node() not in (None, home)
