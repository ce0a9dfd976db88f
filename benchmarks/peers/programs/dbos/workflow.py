"""Three no-op steps, and a fan-out of child workflows with join, called directly."""

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
    handles = [DBOS.start_workflow(item, value) for value in range(n)]
    return len([handle.get_result() for handle in handles])
