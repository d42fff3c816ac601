"""Dashboard, alerts, scraping and health checks ask only for metrics that a service has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from saga.adapters.http import METRICS, pages
from saga.effects.health import OUTCOMES, EffectsHealth
from saga.runtime.health import OrchestratorHealth
from tests.adapters.test_http import serving

INFRA = Path(__file__).parents[2] / "infra"
PROMETHEUS = yaml.safe_load((INFRA / "prometheus.yml").read_text("utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text("utf-8"))["services"]
SCRAPED = {"job", "instance", "le"}
"""Labels that Prometheus adds by itself, or that belong to every histogram."""
FUNCTIONS = {"abs", "sum", "max", "rate", "increase", "histogram_quantile", "by"}
PROMETHEUS_OWN = {"up": set[str]()}


def expressions() -> list[str]:
    """All that the dashboard and the alerts ask."""
    dashboard = json.loads((INFRA / "grafana" / "dashboards" / "saga.json").read_text("utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((INFRA / "prometheus-rules.yml").read_text("utf-8"))
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


async def exported_by(tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each series that a process of both roles has, by its name."""
    service = serving(tmp_path)
    parts = service._health  # noqa: SLF001 - without a server
    assert {type(part) for part in parts} >= {OrchestratorHealth, EffectsHealth}
    families = [family for part in parts for family in await part.metrics()]
    labels = {family.name: set(family._labelnames) for family in families}  # noqa: SLF001
    text = bytes((await pages(parts)[METRICS]()).body).decode()
    await service.stop()
    series = dict(PROMETHEUS_OWN)
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        endings = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        series |= {
            f"{name}{ending}": labels.get(name.removesuffix("_total"), set()) for ending in endings
        }
    return series


def named(expression: str) -> dict[str, set[str]]:
    """The metrics that a PromQL expression names, each with the labels that it needs.

    The labels that an expression groups by count for all of its metrics.
    """
    groupings = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    grouped = {label.strip() for grouping in groupings for label in grouping.split(",")}
    bare = re.sub(r"\[[^\]]*\]|\bby\s*\([^)]*\)", " ", expression)
    series: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b([a-z_]\w*)\b\s*(\{[^}]*\})?", bare):
        if name not in FUNCTIONS:
            selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selector))
            series[name] = grouped | selected
    return series


@pytest.mark.parametrize("expression", expressions())
async def test_dashboard_and_alerts_ask_for_metrics_that_exist(
    expression: str, tmp_path: Path
) -> None:
    """Each metric of the dashboard and the alerts exists, and has the labels it is asked by."""
    exported = await exported_by(tmp_path)
    asked = named(expression)

    assert asked
    assert asked.keys() <= exported.keys()
    for metric, labels in asked.items():
        assert labels <= exported[metric] | SCRAPED


@pytest.mark.parametrize(
    "wrong", ["sum(saga_began_total)", "max by (colour) (saga_active)", 'saga_active{hue="x"}']
)
async def test_a_made_up_metric_or_label_would_be_seen(wrong: str, tmp_path: Path) -> None:
    """A name or a label that is made up does not pass."""
    exported = await exported_by(tmp_path)
    [(metric, labels)] = named(wrong).items()

    assert metric not in exported or not labels <= exported[metric] | SCRAPED


def test_outcomes_that_alerts_select_exist() -> None:
    """A label's value that is made up would never fire."""
    selected = re.findall(r'saga_effects_total\{outcome="(\w+)"', " ".join(expressions()))

    assert selected
    assert set(selected) <= OUTCOMES.keys()


async def test_each_metric_of_ours_is_on_the_dashboard_or_behind_an_alert(tmp_path: Path) -> None:
    """But for what only names or numbers things."""
    asked = {name for expression in expressions() for name in named(expression)}
    endings = ("_bucket", "_count", "_sum")
    ours = {name for name in await exported_by(tmp_path) if name.startswith("saga_")}
    ours = {name for name in ours if not name.endswith(endings)} | {
        name.removesuffix("_bucket") for name in ours if name.endswith("_bucket")
    }
    shown = asked | {name.removesuffix("_bucket").removesuffix("_count") for name in asked}
    assert ours - shown == {"saga_consumer_position", "saga_info"}


def test_prometheus_asks_every_container_that_serves() -> None:
    """Orchestrators and effects, all containers of each, where the settings have them listen."""
    serving_ = {
        name for name, container in COMPOSE.items() if container.get("command", [""])[0] == "run"
    }
    assert serving_ == {"orchestrator", "effects"}
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    for name in serving_:
        environment = COMPOSE[name]["environment"]
        host, _, port = environment["SAGA_HTTP"].rpartition(":")
        assert host == "0.0.0.0"
        [group] = jobs[f"saga-{name}"]["dns_sd_configs"]
        assert (group["names"], group["type"], group["port"]) == ([name], "A", int(port))
        assert jobs[f"saga-{name}"].get("metrics_path", "/metrics") == "/metrics"
        assert COMPOSE[name]["healthcheck"]["test"] == ["CMD", "python", "-m", "saga", "health"]
    mounted = {mount.split(":")[1] for mount in COMPOSE["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in PROMETHEUS["rule_files"]} <= mounted
