"""Alembic migrations; `signalbox db upgrade` runs them on PostgreSQL and SQLite."""
