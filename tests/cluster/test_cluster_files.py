"""Files for clusters of others: each passes the validator of the tool that will read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERNETES = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
LAUNCHER = sorted((CLUSTER / "launcher").glob("*.yaml"))
SLURM = CLUSTER / "slurm" / "resample.sbatch"


def tool(name: str) -> str:
    """A checker that the environment brings."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed (extra dev)")
    return found


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda p: p.name)
def test_launcher_file_fits_rays_schema(path: Path) -> None:
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    config = yaml.safe_load(path.read_text())
    jsonschema.validate(config, json.loads(schema.read_text()))
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [c for c in commands if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in c for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_launchers_node_types_name_the_head() -> None:
    config = yaml.safe_load((CLUSTER / "launcher" / "aws_v100.yaml").read_text())
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda p: p.name)
def test_kubernetes_file_has_kuberays_fields(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    jsonschema.validate(config, _kuberay(config["kind"]))


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda p: p.name)
def test_pod_templates_are_kubernetes_own(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra dev is not installed")
    cluster = _cluster(yaml.safe_load(path.read_text()))
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        validate.validate(pod, "1.31", strict=True)
    assert all(isinstance(v, str) for g in groups for v in g["rayStartParams"].values())


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda p: p.name)
def test_cluster_asks_for_a_token_and_scales(path: Path) -> None:
    cluster = _cluster(yaml.safe_load(path.read_text()))
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert workers["minReplicas"] < workers["maxReplicas"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_a_field_that_kuberay_lacks_is_found() -> None:
    config = yaml.safe_load((CLUSTER / "kubernetes" / "raycluster.yaml").read_text())
    config["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(config, _kuberay("RayCluster"))


def test_job_and_cluster_describe_the_same_machines() -> None:
    job, cluster = (
        _cluster(yaml.safe_load((CLUSTER / "kubernetes" / name).read_text()))
        for name in ("rayjob.yaml", "raycluster.yaml")
    )
    assert job == cluster


def test_slurm_script_passes_shellcheck() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    subprocess.run([tool("shellcheck"), SLURM], check=True)


def test_container_file_passes_hadolint() -> None:
    path = CLUSTER / "container" / "Containerfile"
    subprocess.run([tool("hadolint"), "--failure-threshold", "info", path], check=True)


def _kuberay(kind: str) -> dict[str, Any]:
    """JSON schema of one of KubeRay's kinds."""
    fields = json.loads((CLUSTER / "kubernetes" / "fields.json").read_text())
    return {"$ref": f"#/$defs/{kind}", "$defs": fields["$defs"]}


def _cluster(config: dict[str, Any]) -> dict[str, Any]:
    """The cluster's spec of a RayCluster or a RayJob."""
    spec: dict[str, Any] = config["spec"]
    inner: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return inner
