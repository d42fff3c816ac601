"""The container files fit together, and fit the program that they start."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from saga.console.cli.program import program
from saga.console.cli.serving import roles_of
from saga.settings import Settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ENTRYPOINT = ["python", "-m", "saga"]
UsageError = typer.BadParameter.__base__  # typer shows this one only through its children


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_container_is_a_command_of_saga(name: str) -> None:
    """Command, options and their values are accepted by the program as it is today."""
    words = OURS[name]["command"]

    parse(words)
    if "--roles" in words:
        roles_of(words[words.index("--roles") + 1])


@pytest.mark.parametrize("name", [name for name in OURS if "healthcheck" in OURS[name]])
def test_health_check_of_a_container_is_a_command_of_saga(name: str) -> None:
    """What says that a container is well can be run in it."""
    command, *words = OURS[name]["healthcheck"]["test"]

    assert command == "CMD"
    assert words[: len(ENTRYPOINT)] == ENTRYPOINT
    parse(words[len(ENTRYPOINT) :])


@pytest.mark.parametrize("words", [["rum"], ["run", "--role", "effects"], ["topics", "make"]])
def test_wrong_command_would_be_seen(words: list[str]) -> None:
    """A command that does not exist does not pass."""
    with pytest.raises(UsageError):
        parse(words)


def test_settings_of_the_containers_are_accepted() -> None:
    """The environment has settings of that name, and their values are valid."""
    for service in OURS.values():
        environment = {name: defaulted(value) for name, value in service["environment"].items()}
        settings = Settings.read(environment)

        kafka = settings.bus.removeprefix("kafka://").partition(":")
        assert kafka[0] in SERVICES
        listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert f"{kafka[0]}:{kafka[2]}" in listeners
        database = SERVICES["postgres"]["environment"]
        user, password = database["POSTGRES_USER"], defaulted(database["POSTGRES_PASSWORD"])
        place = f"postgres:5432/{database['POSTGRES_DB']}"
        assert settings.store == f"postgresql://{user}:{password}@{place}"


def test_files_that_containers_need_are_here() -> None:
    """All that is mounted or built from exists, and named volumes are declared."""
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            is_path = source.startswith(".")
            assert (INFRA / source).exists() if is_path else source in COMPOSE["volumes"], mount
    for service in OURS.values():
        context = INFRA / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()


def test_containers_wait_for_the_health_of_others() -> None:
    """Who waits for a container to be healthy or done waits for one that can become so."""
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] != "unless-stopped", f"{other} never ends"


def test_image_has_what_it_runs_and_is_not_root() -> None:
    """What the image copies is let through to the build, and it runs as a numbered user."""
    dockerfile = (INFRA / "Dockerfile").read_text("utf-8")
    copied = re.findall(r"^COPY (\S+) \S+$", dockerfile, re.MULTILINE)
    let_through = (ROOT / ".dockerignore").read_text("utf-8").splitlines()

    assert set(copied) == {"requirements.txt", "saga", "topics", "domain"}
    assert {line[1:] for line in let_through if line.startswith("!")} == set(copied)
    assert all((ROOT / path).exists() for path in copied)
    assert re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE) == [("10001", "10001")]
    assert json.dumps(ENTRYPOINT) in dockerfile


def test_prometheus_reads_containers_that_exist() -> None:
    """Every address that is scraped is that of a container, and Grafana asks Prometheus."""
    prometheus = yaml.safe_load((INFRA / "prometheus.yml").read_text("utf-8"))
    targets = {
        target.partition(":")[0]
        for job in prometheus["scrape_configs"]
        for group in (*job.get("static_configs", ()), *job.get("dns_sd_configs", ()))
        for target in group.get("targets") or group["names"]
    }
    sources = INFRA / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(sources.read_text("utf-8"))["datasources"]

    assert targets - {"localhost"} <= SERVICES.keys()
    assert source["url"] == "http://prometheus:9090"


def test_dashboard_asks_the_source_that_is_provided() -> None:
    """Each panel has a title, an explanation, a query and the provided data source."""
    dashboard = json.loads((INFRA / "grafana" / "dashboards" / "saga.json").read_text("utf-8"))

    assert dashboard["panels"]
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "prometheus"
        assert panel["title"]
        assert panel["description"]
        assert all(target["expr"] for target in panel["targets"])


def parse(words: list[str]) -> None:
    """Has the program read a command line to its end, without running it."""
    command = typer.main.get_command(program())
    context = command.make_context("saga", list(words))
    while hasattr(command, "resolve_command"):
        words = [*context._protected_args, *context.args]  # noqa: SLF001 - as a group itself goes on
        name, command, rest = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(name, rest, parent=context)


def defaulted(value: str) -> str:
    """A value as compose fills it in where the environment says nothing."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
