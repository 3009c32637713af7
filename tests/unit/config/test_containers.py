"""The container files: they parse, name files that exist, and agree with each other."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.support.system import REPOSITORY

_DOCKER = REPOSITORY / "config" / "docker"


def _compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return document


def test_compose_has_the_services_and_all_its_mounted_files_exist() -> None:
    services = _compose()["services"]
    assert set(services) == {"proxy", "primary", "standby", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (REPOSITORY / source).exists(), source


def test_every_published_port_is_on_loopback() -> None:
    for name, service in _compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), (name, port)


def test_compose_gives_the_proxy_every_variable_its_configuration_wants() -> None:
    text = (REPOSITORY / "config" / "docker.toml").read_text()
    wanted = set(re.findall(r"\$\{([A-Z_]+)\}", text))
    assert wanted
    assert wanted <= set(_compose()["services"]["proxy"]["environment"])


def test_nodes_of_the_configuration_are_services() -> None:
    document = tomllib.loads((REPOSITORY / "config" / "docker.toml").read_text())
    services = _compose()["services"]
    assert {node["host"] for node in document["node"]} == {"primary", "standby"}
    assert {node["host"] for node in document["node"]} <= set(services)
    users = _compose()["configs"]["users"]["content"]
    assert f'"{document["database"][0]["user"]}"' in users
    assert (
        f"CREATE ROLE {document['monitor']['user']} " in (_DOCKER / "primary-init.sh").read_text()
    )


def test_dockerfile_runs_compiled_as_an_ordinary_user_with_a_health_check() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    assert [name for _, name in stages] == ["build", ""]
    assert "HEADGATE_COMPILE=1" in text
    assert re.search(r"^USER 10001", text, re.MULTILINE)
    assert "/health/live" in text
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (REPOSITORY / source).exists(), source


def test_prometheus_scrapes_the_proxy_with_the_token() -> None:
    document = yaml.safe_load((_DOCKER / "prometheus.yml").read_text())
    job = document["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["proxy:9632"]}]
    mounted = _compose()["services"]["prometheus"]["configs"][0]["target"]
    assert job["authorization"]["credentials_file"] == mounted


def test_dashboard_is_provisioned_and_asks_the_provisioned_source() -> None:
    sources = yaml.safe_load(
        (_DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    uid = sources["datasources"][0]["uid"]
    dashboard = json.loads((_DOCKER / "grafana/dashboards/headgate.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) >= 12
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["datasource"]["uid"] == uid
        for target in panel["targets"]:
            assert "headgate_" in target["expr"], panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")")


def test_shell_scripts_stop_at_the_first_error() -> None:
    scripts: list[Path] = [*_DOCKER.glob("*.sh"), REPOSITORY / ".ci" / "run"]
    for script in scripts:
        if script.exists():  # the compiled copy of the tree has no .ci
            assert "set -euo pipefail" in script.read_text()
            assert script.stat().st_mode & 0o111


def test_dashboard_asks_only_for_metrics_that_are_exported() -> None:
    exported = set(
        re.findall(
            r'"(headgate_[a-z_]+)"',
            "".join(path.read_text() for path in (REPOSITORY / "proxy" / "observe").glob("*.py")),
        )
    )
    text = (_DOCKER / "grafana/dashboards/headgate.json").read_text()
    asked = {
        re.sub(r"_(total|bucket|count|sum)$", "", name)
        for name in re.findall(r"headgate_[a-z_]+", text)
    }
    assert asked - exported == set()
