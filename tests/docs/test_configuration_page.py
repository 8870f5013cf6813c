"""docs/configuration.md is made from the settings and must stay so."""

from __future__ import annotations

from pathlib import Path

from app.cli.config import configuration_page, rows

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_settings_say() -> None:
    """A changed setting changes the page in the same commit: `chronicle config docs > docs/configuration.md`."""
    assert PAGE.read_text() == configuration_page()


def test_every_setting_tells_its_meaning() -> None:
    """No setting without a sentence."""
    assert [name for name, _, _, text in rows() if len(text) < 10] == []
