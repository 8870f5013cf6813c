"""The wheel owns one name, `chronicle/`: the five folders and the schemas' data travel inside it.

Only a standard wheel gets them; an editable install imports the folders where they lie and would get dead copies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("app", "agents", "tables", "schemas", "connectors")


class MoveFoldersInside(BuildHookInterface):  # type: ignore[type-arg]
    """See above."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files."""
        if version == "standard":
            build_data["force_include"] |= {str(Path(self.root) / name): f"chronicle/{name}" for name in FOLDERS}
