"""deploy/prometheus: alerts are PromQL over metrics that are there, and docs/failure-modes.md leads on from each."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest
import yaml

from app.settings import IngestSettings
from failure_modes import PAGE, ROWS
from repository import ROOT
from schemas.metrics import METRICS

FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
#: What is asked for -> labels it may be asked by. Of Prometheus itself: `up`, and where a sample came from.
KNOWN = {
    "up": set[str](),
    **{spec.name: set(spec.labels) for spec in METRICS if spec.kind != "histogram"},
    **{f"{spec.name}_bucket": {*spec.labels, "le"} for spec in METRICS if spec.kind == "histogram"},
}
OF_PROMETHEUS = {"job", "instance"}


def alerts_in(text: str) -> set[str]:
    """The alerts that are named in it."""
    return set(re.findall(r"\*\*(Chronicle\w+)\*\*", text))


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every metric that is asked for."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert found
    return found


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_asks_for_metrics_that_are_there(rule: dict[str, Any]) -> None:
    """A metric or label that was renamed would leave an alert that is silent for ever."""
    for selector in selectors(rule["expr"]):
        assert selector.name in KNOWN
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= KNOWN[selector.name] | OF_PROMETHEUS, selector.name


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if "increase(" in rule["expr"]], ids=lambda rule: rule["alert"]
)
def test_the_first_count_is_seen(rule: dict[str, Any]) -> None:
    """A counter with labels is not there before it; `increase` from nothing to one is none."""
    for name in re.findall(r"increase\((\w+)", rule["expr"]):
        begins_at_0 = not KNOWN[name]
        assert begins_at_0 or re.search(rf"unless {name} offset", rule["expr"])


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """In a sentence each; what it puts into them is there."""
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "rows"}
    for name in ("summary", "description"):
        assert rule["annotations"][name].endswith(".")
    kept = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    whole = promql_parser.parse(rule["expr"]).prettify()
    assert kept <= {*re.findall(r"\w+", whole), *OF_PROMETHEUS}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_leads_to_its_rows_and_back(rule: dict[str, Any]) -> None:
    """Who is woken finds the row by the name of the alert, and whoever reads the row knows what will wake them."""
    named = set(rule["annotations"]["rows"].split(", "))
    assert {row for row, cells in ROWS.items() if rule["alert"] in alerts_in(" ".join(cells))} == named


def test_names_of_alerts_are_their_own_and_the_page_names_no_other() -> None:
    """What was renamed leaves the page."""
    assert len(NAMES) == len(set(NAMES))
    assert alerts_in(PAGE) == set(NAMES)


def test_the_spool_fills_at_four_fifths_of_its_setting() -> None:
    """No metric tells the limit."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "ChronicleSpoolFills")
    limit = IngestSettings().spool_max_bytes
    assert str(int(limit * 0.8)) in rule["expr"]


def test_every_process_of_the_compose_file_is_scraped() -> None:
    """The services that work, on the port they listen on; the rules are loaded."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    workers = {name for name, service in services.items() if service.get("command", [""])[0] == "worker"}
    assert (job["job_name"], set(found["names"]), found["port"]) == ("chronicle", workers, 8000)
    assert config["rule_files"] == ["alerts.yaml"]
