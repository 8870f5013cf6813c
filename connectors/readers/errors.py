"""How a question can fail although its database is there. Apart from the readers: whoever answers people knows them."""

from __future__ import annotations

from schemas.errors import Unavailable


class TooSlow(Unavailable):
    """The database is here, but this question took too long: asking another database would not be an answer."""


class QueryFailed(Unavailable):
    """The database is here and answers others, but not this question: a column is missing, a right was not granted."""
