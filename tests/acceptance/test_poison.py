"""An instance whose step ends its process suffers alone: the third strike is an incident, and the others complete."""

import time

from signalbox.ports import free_port
from tests.support.cluster import NO_BROKER, QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.up import Up
from tests.support.waiting import wait_until

NEIGHBOURS = 6
DEATHS = 3
"""In a batch with others, alone after the first strike, alone after the second."""


def test_an_instance_whose_step_kills_the_orchestrator_is_given_up_and_the_others_complete(
    processes: Processes, tell: Tell
) -> None:
    env = {**QUICK_LEASES, "SIGNALBOX_FAULTS": "in_step:deadly=kill"}
    up = Up.start(processes, env, port=free_port())
    database = f"sqlite:///{up.data / 'signalbox.db'}"
    with Cluster(processes, database, NO_BROKER) as cluster, up.client() as client:
        client.apply(three_tasks(ms=10))
        began = time.monotonic()
        deadly = client.start("three-tasks", business_key="deadly")["id"]
        for number in range(NEIGHBOURS):
            client.start("three-tasks", business_key=f"neighbour-{number}")

        wait_until(
            lambda: cluster.statuses() == {"completed": NEIGHBOURS, "failed": 1},
            what="the neighbours to complete and the deadly one to be given up",
            seconds=90,
        )
        seconds = time.monotonic() - began

        [incident] = client.incidents()
        assert (incident["code"], incident["instanceId"]) == ("engine.poison", deadly)
        assert up.child.log().count("killed by SIGKILL") == DEATHS
        assert client.instance(deadly)["error"]["code"] == "engine.poison"
        cluster.assert_each_result_counted_once(tasks=NEIGHBOURS * TASKS)
        cluster.assert_healthy()
    assert up.child.terminate() == 0
    tell(f"given up after {DEATHS} deaths, {NEIGHBOURS} neighbours completed, in {seconds:.1f} s")
