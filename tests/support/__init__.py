"""What several suites share: real servers, real processes, patience with a deadline."""
