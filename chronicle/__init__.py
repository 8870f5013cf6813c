"""Chronicle: the command. The house itself is in the folders beside this one (inside it, in an installed wheel)."""

from __future__ import annotations


def version() -> str:
    """Of the installed distribution; "0+checkout" for a tree that is not installed."""
    from importlib import metadata  # here: `import chronicle` should cost nothing

    try:
        return metadata.version("chronicle-streams")
    except metadata.PackageNotFoundError:
        return "0+checkout"
