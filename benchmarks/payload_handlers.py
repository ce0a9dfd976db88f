"""What `benchmarks.payloads` runs: a task that returns what it was given."""

from signalbox import handler


@handler("bench.echo")
def echo(input: dict[str, object]) -> dict[str, object]:
    return input
