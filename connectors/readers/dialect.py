"""What Postgres and SQLite say differently. Pure."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles


class _Bytewise(sa.sql.functions.GenericFunction[str]):
    """One argument: the text."""

    name = "chronicle_bytewise"
    type = sa.Text()
    inherit_cache = True


@compiles(_Bytewise, "postgresql")
def _postgres(element: _Bytewise, compiler: Any, **more: Any) -> str:
    return f'({compiler.process(element.clauses, **more)} COLLATE "C")'


@compiles(_Bytewise, "sqlite")
def _sqlite(element: _Bytewise, compiler: Any, **more: Any) -> str:
    return str(compiler.process(element.clauses, **more))


def bytewise(text: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A text that is compared by its bytes, as SQLite and Python do it, whatever the language of the database is.

    Lists and cursors mean the same place in both databases then.
    """
    return _Bytewise(text)
