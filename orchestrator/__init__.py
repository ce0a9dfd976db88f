"""The orchestrator advances instances: it alone writes their snapshots and history."""
