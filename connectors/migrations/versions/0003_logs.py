"""Logs: which log the rows came from, so that offsets of a new log do not pass for those of a lost one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
ID = postgresql.UUID().with_variant(sa.Text(), "sqlite")
PLACE = ["ingest_partition", "ingest_offset"]


def _sqlite() -> bool:
    return bool(op.get_context().dialect.name == "sqlite")


def upgrade() -> None:
    op.create_table(
        "logs",
        sa.Column("log_id", sa.Text, nullable=False),
        sa.Column("began_at", TIME, nullable=False),
        sa.Column("earlier", BIG, nullable=False),
        sa.PrimaryKeyConstraint("log_id", name="pk_logs"),
    )
    _key_of_duplicates([*PLACE, "event_id"])
    _index_of_outbox([*PLACE, "event_id"])


def downgrade() -> None:
    op.execute(
        "DELETE FROM duplicates WHERE EXISTS (SELECT 1 FROM duplicates d WHERE d.event_id < duplicates.event_id AND "
        "d.ingest_partition = duplicates.ingest_partition AND d.ingest_offset = duplicates.ingest_offset)"
    )
    _key_of_duplicates(PLACE)
    _index_of_outbox(PLACE)
    op.drop_table("logs")


def _key_of_duplicates(columns: list[str]) -> None:
    if not _sqlite():
        op.drop_constraint("pk_duplicates", "duplicates")
        op.create_primary_key("pk_duplicates", "duplicates", columns)
        return
    # SQLite cannot change a key; the table is small
    op.rename_table("duplicates", "duplicates_before")
    op.create_table("duplicates", *_duplicates(), sa.PrimaryKeyConstraint(*columns, name="pk_duplicates"))
    op.execute("INSERT INTO duplicates SELECT * FROM duplicates_before")
    op.drop_table("duplicates_before")


def _duplicates() -> list[sa.Column[Any]]:
    return [
        sa.Column("ingest_partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("ingest_offset", BIG, nullable=False, autoincrement=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
    ]


def _index_of_outbox(columns: list[str]) -> None:
    if _sqlite():
        op.drop_index("ux_outbox_ingest", "outbox")
        op.create_index("ux_outbox_ingest", "outbox", columns, unique=True)
