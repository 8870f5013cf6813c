"""Searching for words in SQL: by a full-text index in Postgres, by `schemas.words` itself in SQLite."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from connectors.model import events
from schemas import words

#: Types whose text can be searched: those of the partial index `ix_events_words` (migration 0004).
TYPES: Final = ("notification", "post_tool_use_failure", "user_prompt")
#: Said with values, not with parameters: the planner must see that the index covers it.
_OF_TYPES: Final = f"{events.name}.event_type IN ({', '.join(repr(kind) for kind in TYPES)})"
_MEMBERS: Final = ("prompt", "error", "message")
_TOLD: Final = "coalesce({0}.payload ->> 'prompt', {0}.payload ->> 'error', {0}.payload ->> 'message', '')"
_TEXT: Final = _TOLD.format(events.name)
#: Whether that is a text: a number or a list, which each database spells in its own way, is not searched.
_IS_TEXT: Final = {
    dialect: f"CASE {' '.join(when.format(f'{events.name}.payload', name) for name in _MEMBERS)} END = '{kind}'"
    for dialect, kind, when in (
        ("postgresql", "string", "WHEN {0} ->> '{1}' IS NOT NULL THEN jsonb_typeof({0} -> '{1}')"),
        ("sqlite", "text", "WHEN {0} ->> '{1}' IS NOT NULL THEN json_type({0}, '$.{1}')"),
    )
}
_MARKS: Final = "/._-@~+?&=<>#"
#: The expression of the index: only a query that says the same uses it.
VECTOR: Final = f"to_tsvector('simple', translate(left({_TEXT}, {words.SEARCHED}), '{_MARKS}', '{' ' * len(_MARKS)}'))"
_FUNCTION: Final = "chronicle_has_words"


class _HasWords(sa.sql.functions.GenericFunction[bool]):
    """Arguments: the question for Postgres, and the same for SQLite."""

    name = _FUNCTION
    type = sa.Boolean()
    inherit_cache = True


@compiles(_HasWords, "postgresql")
def _postgres(element: _HasWords, compiler: Any, **more: Any) -> str:
    question, _ = element.clauses
    found = f"{VECTOR} @@ to_tsquery('simple', {compiler.process(question, **more)})"
    return f"{_OF_TYPES} AND {found} AND {_IS_TEXT['postgresql']}"


@compiles(_HasWords, "sqlite")
def _sqlite(element: _HasWords, compiler: Any, **more: Any) -> str:
    _, question = element.clauses
    found = f"{_FUNCTION}({_TEXT}, {compiler.process(question, **more)})"
    return f"{_OF_TYPES} AND {_IS_TEXT['sqlite']} AND {found}"


def has_words(wanted: tuple[str, ...]) -> sa.ColumnElement[bool]:
    """A condition on `events`: `schemas.words.matches`."""
    prefixes = " & ".join(f"'{word}':*" for word in wanted)  # words have no ASCII punctuation, so no quotes
    return _HasWords(sa.literal(prefixes, sa.Text()), sa.literal(" ".join(wanted), sa.Text()))


def teach(engine: sa.Engine) -> None:
    """Give each connection to SQLite the function that the condition calls."""

    def has(text: str | None, wanted: str) -> bool:
        return words.matches(str(text or ""), tuple(wanted.split(" ")))

    sa.event.listen(
        engine, "connect", lambda connection, _: connection.create_function(_FUNCTION, 2, has, deterministic=True)
    )


def text_of(payload: dict[str, Any]) -> str:
    """The text of a payload that is searched, as the expressions above have it."""
    told = (payload.get(name) for name in _MEMBERS)
    found = next((value for value in told if value is not None), "")
    return found if isinstance(found, str) else ""
