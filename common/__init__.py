"""What every process agrees on: configuration, errors, ids, the clock, lifecycles, tables, queries, commands, queues."""
