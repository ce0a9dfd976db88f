"""The example for Kubernetes and KEDA: its objects name each other and start what Compose starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def objects(file: str, kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind, by name."""
    found = yaml.safe_load_all((FOLDER / file).read_text(encoding="utf-8"))
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


WORKLOADS = {**objects("signalbox.yaml", "Deployment"), **objects("signalbox.yaml", "Job")}


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [found] = workload["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("name", ["migrate", "api", "orchestrator", "task-runner"])
def test_a_container_runs_what_compose_runs(name: str) -> None:
    assert container(WORKLOADS[f"signalbox-{name}"])["command"] == COMPOSE["services"][name]["command"]


def test_every_workload_has_all_settings_and_they_exist() -> None:
    known = {field.upper() for field in Settings.model_fields} | {
        f"SIGNALBOX_{field.upper()}" for field in Settings.model_fields
    }
    [settings] = objects("signalbox.yaml", "ConfigMap").values()

    assert set(settings["data"]) <= known
    for workload in WORKLOADS.values():
        assert container(workload)["envFrom"] == [
            {"configMapRef": {"name": settings["metadata"]["name"]}},
            {"secretRef": {"name": "signalbox"}},
        ]


def test_no_service_becomes_a_setting() -> None:
    """Kubernetes tells pods of each Service as NAME_PORT=tcp://…, and a Service may be called as our settings begin."""
    assert "signalbox" in objects("signalbox.yaml", "Service"), "SIGNALBOX_PORT would be its address"
    for name, workload in WORKLOADS.items():
        assert workload["spec"]["template"]["spec"]["enableServiceLinks"] is False, name


def test_selectors_meet_the_labels_of_their_pods() -> None:
    deployments = objects("signalbox.yaml", "Deployment")
    for one in deployments.values():
        assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]
    [service] = objects("signalbox.yaml", "Service").values()
    labels = deployments["signalbox-api"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    [port] = container(deployments["signalbox-api"])["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["containerPort"]


def test_workers_are_given_longer_to_end_than_they_drain() -> None:
    drain = Settings.model_fields["drain_seconds"].default
    for duty in ("orchestrator", "task-runner"):
        pod = WORKLOADS[f"signalbox-{duty}"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > drain + 2


def test_keda_scales_the_workers_and_leaves_one_of_each() -> None:
    scaled = objects("keda.yaml", "ScaledObject")

    targets = {one["spec"]["scaleTargetRef"]["name"] for one in scaled.values()}
    assert targets == {"signalbox-orchestrator", "signalbox-task-runner"}
    assert targets <= set(objects("signalbox.yaml", "Deployment"))
    for one in scaled.values():
        assert 1 <= one["spec"]["minReplicaCount"] < one["spec"]["maxReplicaCount"]
        [trigger] = one["spec"]["triggers"]
        assert trigger["type"] == "postgresql"
        assert trigger["metadata"]["connectionFromEnv"] == "DATABASE_URL"
        assert float(trigger["metadata"]["targetQueryValue"]) > 0
