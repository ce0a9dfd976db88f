"""The HTTP API: routes, schemas, authentication, problems, OpenAPI. One transaction a command.

A process of its own that shares nothing with the workers but the database: it accepts, they act. Reference: docs/api.md.
"""
