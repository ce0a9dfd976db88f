"""Use cases that several processes share: each takes a transaction and a tenant, and never commits."""
