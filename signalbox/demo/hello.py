"""`signalbox demo`: hello-workflow from its start to its end: one task, one mail, two rows of history."""

from __future__ import annotations

from signalbox.client import Client
from signalbox.demo.stage import Stage

DEFINITION = "hello-workflow"


def play(stage: Stage, client: Client) -> None:
    """Raises `SignalboxError` for the first thing that is not as it should be."""
    stage.apply(client, DEFINITION)
    instance = stage.watch_to_the_end(client, stage.start(client, DEFINITION))
    tasks = list(client.tasks(instance_id=instance["id"]))
    stage.heading("The mail that it sent")
    stage.show_mail(tasks)
    entries = stage.show_history(client, instance)
    stage.show_context(instance)
    stage.show_times(instance, entries, tasks)
