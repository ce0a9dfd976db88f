"""Signalbox and its peers side by side: the same work, in turn, on one machine. See `benchmarks/README.md`."""

from benchmarks.peers import absurd, bullmq, celery, dbos, prefect, restate, signalbox

PORTS = {
    port.name: port
    for module in (signalbox, celery, dbos, absurd, bullmq, restate, prefect)
    for port in module.PORTS
}
"""Every system by its name, in the order of the rounds."""
