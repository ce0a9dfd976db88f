"""`signalbox demo order`: two regions side by side, a payment that is tried again, each line of the order a task of its own."""

from __future__ import annotations

from signalbox.cli.render import tasks_table
from signalbox.client import Client
from signalbox.demo.stage import Stage

DEFINITION = "order"
INPUT = {
    "number": "A-1007",
    "customer": "ada@example.com",
    "amount": 84,
    "lines": [
        {"sku": "lamp", "quantity": 1},
        {"sku": "rope", "quantity": 2},
        {"sku": "bell", "quantity": 12},
        {"sku": "flag", "quantity": 3},
    ],
}


def play(stage: Stage, client: Client) -> None:
    """Raises `SignalboxError` for the first thing that is not as it should be."""
    stage.apply(client, DEFINITION)
    instance = stage.watch_to_the_end(client, stage.start(client, DEFINITION, INPUT))
    tasks = list(client.tasks(instance_id=instance["id"]))
    stage.heading(
        "Its tasks: the card service was busy at first, and each line of the order is an item of the MAP"
    )
    stage.print(tasks_table(reversed(tasks)), indent=2)
    stage.heading("The mail that it sent")
    stage.show_mail([task for task in tasks if task["type"] == "EMAIL"], body=True)
    entries = stage.show_history(client, instance)
    stage.show_context(instance)
    stage.show_times(instance, entries, tasks)
