"""The task runner claims tasks, calls their handlers and reports how they ended."""
