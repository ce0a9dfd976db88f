"""Three no-op steps, and a fan-out of tasks with join."""

from prefect import flow, task


@task
async def step(value=None):
    return value


# A flow that is no coroutine waits up to a second at its end for the thread that tells its heartbeat.
@flow
async def three_steps():
    return await step(await step(await step(1)))


@task
def item(value):
    return value


@flow
def fan_out(n):
    return len(item.map(range(n)).result())
