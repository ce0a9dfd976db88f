"""Three no-op steps, and a fan-out of child workflows with join, by a queue."""

from dbos import DBOS


@DBOS.step()
def step(value=None):
    return value


@DBOS.workflow()
def three_steps():
    return step(step(step(1)))


@DBOS.workflow()
def item(value):
    return step(value)


@DBOS.workflow()
def fan_out(n):
    handles = [DBOS.enqueue_workflow("peers", item, value) for value in range(n)]
    return len([handle.get_result(polling_interval_sec=0.01) for handle in handles])
