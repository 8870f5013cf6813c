"""The API holds what its own OpenAPI document says: generated requests against a real stack, from a fixed seed."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.e2e
Ready = dict[str, Any]
#: Generated requests for each operation.
EXAMPLES = 40
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
#: Their good answers have no end; tests/topology/test_live_views.py asks them.
ENDLESS = ("/sse/events", "/ws/events")
#: The same requests in every run.
SEED = 20_260_131


@pytest.fixture(scope="module")
def document(stack: Ready) -> dict[str, Any]:
    """What GET /openapi.json tells."""
    told: dict[str, Any] = requests.get(f"{stack['url']}/openapi.json", timeout=10).json()
    return told


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(method, path) of everything that is told."""
    paths = {path: methods for path, methods in document["paths"].items() if path not in ENDLESS}
    return [(method, path) for path, methods in paths.items() for method in methods]


def fuzz(url: str, operation: Any) -> int:
    """Ask it `EXAMPLES` times; returns how often. Raises what the checks found."""
    asked = 0

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        nonlocal asked
        mode = data.draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        asked += 1
        case.validate_response(case.call(base_url=url, timeout=15), checks=CHECKS)

    ask()
    return asked


def test_every_operation_answers_as_its_document_says(stack: Ready, document: dict[str, Any]) -> None:
    """No 5xx; only documented statuses, content types and shapes, for valid and invalid parameters and bodies."""
    api = schemathesis.openapi.from_dict(document)
    broken: list[str] = []
    asked = 0
    for method, path in operations(document):
        try:
            asked += fuzz(stack["url"], api[path][method.upper()])
        except BaseExceptionGroup as found:  # every operation is tried, and all that is wrong is told
            broken += [f"{method.upper()} {path}: {str(error)[:1500]}" for error in found.exceptions]
        except Exception as error:
            broken.append(f"{method.upper()} {path}: {str(error)[:1500]}")
    assert not broken, "\n\n".join(broken)
    assert asked > 10 * len(operations(document)), "hardly anything was asked"
