"""Locust's page over the same lists: locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000

Users who each wait for their answer before they send the next list, invented as ``dear load`` invents them
and never the same twice. Every order is checked: a wrong one is a failure, as is a refusal, whose Retry-After
is waited for. DEAR_LOAD_MODELS names models, separated by commas, the first the most popular (Zipf);
DEAR_API_KEY is the key. Needs locust, httpx and pydantic; the rest is found beside this file.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from locust import FastHttpUser, constant, task  # type: ignore[import-not-found,unused-ignore]

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))  # where nothing of ours is installed

from dear_client.calls import Calls
from dear_client.errors import ClientError, InvalidRanking, server_error
from dear_client.exchange import Reply, encoded, read_object, retry_after_s
from dear_tools.load.lengths import parse_lengths
from dear_tools.load.lists import InventedLists
from dear_tools.load.mix import zipf

MODELS = [name.strip() for name in os.environ.get("DEAR_LOAD_MODELS", "").split(",") if name.strip()]
WEIGHTS = zipf([1.0] * len(MODELS), 1.0)
KEY = os.environ.get("DEAR_API_KEY", "").strip()
HEADERS = {"content-type": "application/json"} | ({"authorization": f"Bearer {KEY}"} if KEY else {})
LISTS = InventedLists(parse_lengths("20"), parse_lengths("40"), random.Random())
REFUSED_WAIT_S = 1.0


class Caller(FastHttpUser):  # type: ignore[misc,unused-ignore]
    """One of those who ask, with nothing else to do."""

    wait_time = constant(0)

    @task  # type: ignore[misc,untyped-decorator,unused-ignore]
    def rerank(self) -> None:
        """Send one list, and check the order that comes back."""
        asked = LISTS.next()
        model = random.choices(MODELS, WEIGHTS)[0] if MODELS else None
        call = Calls().rerank(asked.query, asked.passages, model=model)
        assert call.body is not None
        wait_s = 0.0
        with self.client.post(
            call.path,
            data=encoded(call.body),
            headers=HEADERS | {"x-request-id": call.request_id},
            name=f"{call.path} {model}" if model else call.path,
            catch_response=True,
        ) as response:
            if response.status_code == 0:
                return  # no connection or no answer: Locust says so itself
            headers = {name.lower(): value for name, value in response.headers.items()}
            reply = Reply(response.status_code, headers, response.content or b"")
            try:
                if reply.status == 429:
                    response.failure("refused (429)")
                    wait_s = retry_after_s(headers) or REFUSED_WAIT_S
                elif reply.status != 200:
                    raise server_error(reply.status, read_object(reply))
                else:
                    call.read(reply)
            except InvalidRanking:
                response.failure("invalid order")  # one failure in Locust's table, whatever the order
            except ClientError as error:
                response.failure(error.message)
        time.sleep(wait_s)  # Locust's: the others go on
