"""The manifests as kustomize renders them, and the pods in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
SELECTIONS = [chosen for n in range(len(COMPONENTS) + 1) for chosen in combinations(COMPONENTS, n)]
WORKLOADS = ("Deployment", "StatefulSet", "Job")


class Pod(NamedTuple):
    """What an object says of its pods."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]


@cache
def render(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization."""
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def overlay(name: str) -> list[dict[str, Any]]:
    return render(K8S / "overlays" / name)


def select(folder: Path, components: Sequence[str]) -> list[dict[str, Any]]:
    """The base with some components, written to `folder`."""
    base = os.path.relpath(K8S, folder.resolve())
    kustomization = {
        "resources": [f"{base}/base"],
        "components": [f"{base}/components/{name}" for name in components],
        "namespace": "anywhere",
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def everything() -> list[dict[str, Any]]:
    """Every object of every overlay and job, and of the components that no overlay switches on."""
    found = [item for name in OVERLAYS for item in overlay(name)]
    found += [item for job in (K8S / "jobs").iterdir() for item in render(job)] + render(K8S / "queues")
    for file in ("cluster-runtimes/rbac.yaml", "kueue/rbac.yaml"):
        found += yaml.safe_load_all((K8S / "components" / file).read_text())
    return found


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of that kind and name."""
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The rights (verb, group, resource) that a Role or ClusterRole gives."""
    return {right for rule in role["rules"] for right in product(rule["verbs"], rule["apiGroups"], rule["resources"])}


def pods(objects: list[dict[str, Any]]) -> Iterator[Pod]:
    """The pods that the objects lead to."""
    for item in objects:
        owner, spec = f"{item['kind']}/{item['metadata']['name']}", item.get("spec", {})
        if item["kind"] in WORKLOADS:
            templates = [spec["template"]]
        elif item["kind"] == "TrainingRuntime":
            templates = [job["template"]["spec"]["template"] for job in spec["template"]["spec"]["replicatedJobs"]]
        else:
            assert "template" not in spec, f"{owner}: pods that no test looks at"
            continue
        for template in templates:
            yield Pod(owner, template["metadata"]["labels"], template["spec"])


def containers(pod: Pod) -> list[dict[str, Any]]:
    return pod.spec["containers"] + pod.spec.get("initContainers", [])
