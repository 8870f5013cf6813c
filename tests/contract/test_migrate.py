"""Migrations on both dialects: they make the model, once, whoever comes first."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from connectors import migrate, model
from connectors.rollup import SESSION_TYPES
from connectors.rows import EVENT_COLUMNS, LETTER_COLUMNS
from schemas.errors import Misconfigured, Unavailable

DIALECTS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)]


@pytest.fixture(params=DIALECTS)
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return migrate.sqlite_dsn(tmp_path / "new" / "store.db")
    found: str = request.getfixturevalue("postgres")
    return found


async def inside(dsn: str, ask: Any) -> Any:
    """Run `ask(connection)` over SQLAlchemy."""
    if dsn.startswith("sqlite"):
        engine = sa.create_engine(dsn)
        with engine.begin() as connection:
            found = ask(connection)
        engine.dispose()
        return found
    asynchronous = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"))
    async with asynchronous.begin() as connection:
        found = await connection.run_sync(ask)
    await asynchronous.dispose()
    return found


async def execute(dsn: str, statement: str) -> None:
    if dsn.startswith("sqlite"):
        with sqlite3.connect(migrate.sqlite_path(dsn)) as connection:
            connection.execute(statement)
        connection.close()
        return
    postgres = await asyncpg.connect(dsn)
    await postgres.execute(statement)
    await postgres.close()


async def test_a_fresh_database_gets_everything_once(dsn: str) -> None:
    """The first call tells the applied revisions, the next ones have nothing to do."""
    assert await migrate.upgrade(dsn) == list(migrate.REVISIONS)
    assert await migrate.upgrade(dsn) == []
    await migrate.check(dsn)
    assert (await migrate.status(dsn)).current == migrate.HEAD


async def test_the_scripts_make_exactly_the_model(dsn: str) -> None:
    """Tables, columns, types, nullability and indexes agree with connectors.model."""
    await migrate.upgrade(dsn)

    def differences(connection: sa.Connection) -> list[Any]:
        metadata = sa.MetaData()
        for table in model.tables_for(connection.dialect.name):
            table.to_metadata(metadata)
        for table in metadata.tables.values():
            for column in table.columns:
                column.comment = None
        # the full-text index is an expression in one dialect only: tests/contract/test_typed_views.py looks at it
        opts = {"compare_type": True, "include_object": lambda _, name, *__: name != "ix_events_words"}
        context = MigrationContext.configure(connection, opts=opts)
        return compare_metadata(context, metadata)

    assert await inside(dsn, differences) == []


async def test_many_at_once_apply_it_once(dsn: str) -> None:
    """Every process of a cluster may migrate at start."""
    applied = await asyncio.gather(*(migrate.upgrade(dsn) for _ in range(4)))
    assert sorted(applied) == [[], [], [], list(migrate.REVISIONS)]


async def test_an_empty_database_is_told_as_older(dsn: str) -> None:
    """check says what is wrong and what to do."""
    with pytest.raises(Misconfigured) as caught:
        await migrate.check(dsn)
    assert "older" in caught.value.detail
    assert "chronicle db migrate" in caught.value.remedy


async def test_a_newer_database_is_left_alone(dsn: str) -> None:
    """A revision we do not know: neither check nor upgrade goes on."""
    await migrate.upgrade(dsn)
    await execute(dsn, "UPDATE alembic_version SET version_num = '9999'")
    for act in (migrate.check, migrate.upgrade):
        with pytest.raises(Misconfigured) as caught:
            await act(dsn)
        assert "newer" in caught.value.detail


async def test_downgrade_and_upgrade_again(dsn: str) -> None:
    """The scripts know the way back."""
    await migrate.upgrade(dsn)

    def down(connection: sa.Connection) -> set[str]:
        config = migrate.alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return set(sa.inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}

    assert await inside(dsn, down) == set()
    assert await migrate.upgrade(dsn) == list(migrate.REVISIONS)


async def test_the_printed_sql_makes_the_same_tables(dsn: str) -> None:
    """An administrator who runs `db sql` by hand ends where `db migrate` ends."""
    printed = migrate.script(migrate.dialect_of(dsn))
    if dsn.startswith("sqlite"):
        path = migrate.sqlite_path(dsn)
        path.parent.mkdir()
        with sqlite3.connect(path) as connection:
            connection.executescript(printed)
        connection.close()
    else:
        await execute(dsn, printed)
    await migrate.check(dsn)


async def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """Away is not a mistake of the operator; garbage is told as unreadable."""
    with pytest.raises(Unavailable):
        await migrate.upgrade("postgresql://nobody@127.0.0.1:1/nothing")
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable):
        await migrate.upgrade(migrate.sqlite_dsn(garbage))


def test_an_unknown_url_is_refused() -> None:
    """One clear sentence instead of a stack trace."""
    with pytest.raises(Misconfigured):
        migrate.dialect_of("mysql://localhost/x")


def test_the_sinks_write_columns_that_exist() -> None:
    """The hand-made column lists of the sinks are the model's, minus what the database fills in."""
    assert {*EVENT_COLUMNS, "stored_at"} == {column.name for column in model.events.columns}
    assert {*SESSION_TYPES, "updated_at"} == {column.name for column in model.sessions.columns}
    later = {"stored_at", "resolved_at", "replayed_as"}
    assert {*LETTER_COLUMNS} | later == {column.name for column in model.dead_letters.columns}


async def test_an_up_to_date_database_is_told_without_alembic(tmp_path: Path) -> None:
    """Every start asks; it must not cost the import of Alembic and SQLAlchemy."""
    dsn = migrate.sqlite_dsn(tmp_path / "store.db")
    await migrate.upgrade(dsn)
    asks = (
        "import asyncio, sys; from connectors import migrate; "
        f"assert asyncio.run(migrate.upgrade({dsn!r})) == []; "
        "print([name for name in ('alembic', 'sqlalchemy') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", asks], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
