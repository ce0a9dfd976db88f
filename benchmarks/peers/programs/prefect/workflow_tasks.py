"""Three no-op steps, and a fan-out of tasks with join, each in a background task that a task worker runs."""

from prefect import flow, task


@task
async def step(value=None):
    return value


@task
async def three_steps():
    return await step(await step(await step(1)))


@task
def item(value):
    return value


# Tasks map in flows only; the items as background tasks (`deferred=True`) take a quarter of a second each.
@flow
def mapped(n):
    return len(item.map(range(n)).result())


@task
def fan_out(n):
    return mapped(n)
