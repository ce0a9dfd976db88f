"""Three no-op steps as a chain, and a fan-out with join as a chord."""

import os

from celery import Celery, chain, chord

app = Celery("peers", broker=os.environ["PEER_REDIS_URL"], backend=os.environ["PEER_REDIS_URL"])


@app.task
def step(value=None):
    return value


@app.task
def join(values):
    return len(values)


def three_steps():
    return chain(step.s(1), step.s(), step.s()).apply_async()


def fan_out(n):
    return chord((step.s(item) for item in range(n)), join.s()).apply_async()
