"""Prometheus' and Grafana's files: every question can be asked of what the service really says."""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.gpus import GpuState
from tests.service.fakes import encoded, three_colors, tiny_app

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "psanet.json").read_text())
ADDED_BY_PROMETHEUS = {"instance", "job"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def targets() -> list[tuple[str, dict[str, Any]]]:
    return [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def questions() -> dict[str, str]:
    """Every expression by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for title, target in targets():
        expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        found[f"panel {title} {target['refId']}"] = expression
    return found


@cache
def exposed() -> dict[str, set[str]]:
    """Every sample's name of a service that has had a few requests, with its labels."""
    app, pid = tiny_app(), os.getpid()
    gpus: Any = SimpleNamespace(states=lambda: [GpuState(0, "Some GPU", 0.5, 2, 3, {pid: 1})])
    app.state.service.metrics.watch_workers(lambda: [SimpleNamespace(name="cuda:0", pid=pid)], lambda: gpus)
    with TestClient(app) as client:
        assert client.post("/segment", content=encoded(three_colors())).status_code == 200
        assert client.post("/segment", content=b"no picture").status_code == 415
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        kinds = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        found |= {f"{family.name}{suffix}": set() for suffix in kinds}
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def nodes(node: Any) -> Iterator[Any]:
    """A parsed expression and all that it is made of."""
    yield node
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        below = getattr(node, name, None)
        for item in below if isinstance(below, list) else [below]:
            if item is not None:
                yield from nodes(item)


@pytest.mark.parametrize("question", questions().items(), ids=lambda item: item[0])
def test_every_question_is_about_metrics_and_labels_that_the_service_has(question: tuple[str, str]) -> None:
    parsed = list(nodes(promql_parser.parse(question[1])))
    labels: set[str] = set(ADDED_BY_PROMETHEUS)
    selectors = [node for node in parsed if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    for selector in selectors:
        if selector.name == "up":
            continue
        assert selector.name in exposed()
        own = exposed()[selector.name]
        if own or not selector.name.endswith("_total"):  # a counter that was never counted shows no labels
            assert {matcher.name for matcher in selector.matchers.matchers} <= own | ADDED_BY_PROMETHEUS
        labels |= own
    for node in parsed:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None and len(labels) > 2:
            assert set(node.modifier.labels) <= labels


def test_a_wrong_name_would_be_found() -> None:
    assert "psanet_requests_total" in exposed()
    assert "psanet_requests" not in exposed()
    assert exposed()["psanet_requests_total"] == {"route", "code"}


def test_rates_are_taken_of_counters_alone() -> None:
    for place, expression in questions().items():
        for node in nodes(promql_parser.parse(expression)):
            if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
                name = node.args[0].vector_selector.name
                assert name.endswith(("_total", "_bucket", "_sum", "_count")), place


def test_alerts_say_how_bad_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 5
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["for"]


def test_the_dashboard_asks_the_one_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    uids |= {target["datasource"]["uid"] for _, target in targets()}
    assert uids == {source["uid"]}


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/psanet.yaml").read_text())[
        "providers"
    ]
    grafana = yaml.safe_load((DOCKER / "compose.monitoring.yaml").read_text())["services"]["grafana"]
    mounted = f"./grafana/psanet.json:{provider['options']['path']}/psanet.json:ro"
    assert mounted in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/psanet.json"


def test_prometheus_reads_the_rules_that_compose_mounts() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    prometheus = yaml.safe_load((DOCKER / "compose.monitoring.yaml").read_text())["services"]["prometheus"]
    for name in ("prometheus.yml", *config["rule_files"]):
        assert f"./{name}:/etc/prometheus/{name}:ro" in prometheus["volumes"]
