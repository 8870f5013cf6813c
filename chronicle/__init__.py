"""Chronicle: the command. The house itself is in the folders beside this one (inside it, in an installed wheel)."""

from __future__ import annotations


def version() -> str:
    """See `app.version`."""
    from app.version import version as installed  # here: `__main__` has to put `app` on the path first

    return installed()
