"""Prints, every second and as JSON, how many replicas of each deployment Serve counts as running."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time

_SILENCE_S = 8.0


def main() -> None:
    """Runs on a node of the cluster, until Serve no longer answers."""
    import ray
    from ray import serve

    ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
    answered_s = time.monotonic()

    def give_up() -> None:
        while time.monotonic() - answered_s < _SILENCE_S:
            time.sleep(1.0)
        os._exit(1)  # a call to a head that is gone may never return

    threading.Thread(target=give_up, daemon=True).start()
    while True:
        applications = serve.status().applications
        answered_s = time.monotonic()
        running: dict[str, object] = {}
        for application in applications.values():
            running["application"] = str(application.status.value)
            for name, one in application.deployments.items():
                running[name] = one.replica_states.get("RUNNING", 0)
        sys.stdout.write(json.dumps(running) + "\n")
        sys.stdout.flush()
        time.sleep(1.0)


if __name__ == "__main__":
    main()
