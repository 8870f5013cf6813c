"""The machine of a session, beside its project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("machine", sa.Text))
    op.add_column("sessions", sa.Column("machine_at", TIME))
    op.create_index("ix_sessions_machine", "sessions", ["machine", "last_event_at"])


def downgrade() -> None:
    op.drop_index("ix_sessions_machine", "sessions")
    op.drop_column("sessions", "machine_at")
    op.drop_column("sessions", "machine")
