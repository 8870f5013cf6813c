"""Which Chronicle this is."""

from __future__ import annotations


def version() -> str:
    """Of the installed distribution; "0+checkout" for a tree that is not installed."""
    from importlib import metadata  # here: `chronicle --version` and every import of this module should cost nothing

    try:
        return metadata.version("chronicle-streams")
    except metadata.PackageNotFoundError:
        return "0+checkout"
