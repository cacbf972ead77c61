"""Keeps the socket between Serve's replicas on loopback where Ray is on loopback."""

from __future__ import annotations


def keep_on_loopback() -> None:
    """Call in a replica's constructor: afterwards Serve opens the socket, on every address of the machine.

    Ray 2.60 has no option for it: ray/serve/_private/replica.py binds ``[::]:0``.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: bind(server, "127.0.0.1:0")
