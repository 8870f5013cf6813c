"""Alembic's scripts: `versions/NNNN_what.py`, one set for Postgres and SQLite, frozen after release.

A new one: copy the last file, take the next number, name the one before in `down_revision`, change `connectors.model`
to match; `tests/contract/test_migrate.py` tells whether both agree on both dialects.
"""
