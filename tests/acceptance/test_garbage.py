"""Whatever stands in a queue of the broker, no worker ends by it: messages are doorbells, and one that cannot be read is lost."""

import base64
import json

import pytest
import redis

from common.db import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE
from common.ids import new_id
from common.queues.app import TASK_OF_QUEUE
from tests.support.cluster import Cluster
from tests.support.three_tasks import three_tasks
from tests.support.waiting import wait_until


def message(task: str, body: bytes, *, encoded: bool = True) -> bytes:
    """A message as kombu puts it into a list of Redis, with any body."""
    sealed = base64.b64encode(body).decode() if encoded else body.decode()
    told = {
        "body": sealed, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": new_id(), "retries": 0, "timelimit": [None, None]},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "x"}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": new_id(),
        },
    }  # fmt: skip
    return json.dumps(told).encode()


def garbage(task: str) -> list[bytes]:
    return [
        b"garbage", b"[]", b"{}", b"5", b"null", b"\xff\xfe", b"[" * 100_000,
        message(task, b"[]"), message(task, b"{}"), message(task, b"5"), message(task, b"garbage"),
        message(task, b"!!!", encoded=False), message("nobody.knows", b"[]"),
    ]  # fmt: skip


@pytest.mark.parametrize("rung_cluster", ["postgresql"], indirect=True)
def test_no_worker_ends_by_what_it_finds_in_its_queue(rung_cluster: Cluster, valkey_url: str) -> None:
    workers = rung_cluster.workers(orchestrators=1, task_runners=1)
    broker = redis.Redis.from_url(valkey_url)
    queues = (ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE)
    for queue in queues:
        for one in garbage(TASK_OF_QUEUE[queue]):
            broker.lpush(queue, one)

    wait_until(
        lambda: not any(broker.llen(queue) for queue in queues), what="the queues to be read", seconds=20
    )
    rung_cluster.engine.start(three_tasks())
    rung_cluster.wait_for_all("completed", 1, seconds=20)
    wait_until(lambda: not any(broker.llen(queue) for queue in queues), what="the doorbells to be heard")

    assert [one.is_alive for one in workers] == [True, True]
    told = [line for one in workers for line in one.log().splitlines() if "message.unreadable" in line]
    assert len(told) >= len(queues), "and it is said"
    broker.close()
