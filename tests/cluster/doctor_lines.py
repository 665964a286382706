"""`cliptea doctor` as a user runs it, and what its lines say."""

from __future__ import annotations

from typer.testing import CliRunner

from cliptea_pipeline.cli import app

TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
PLACE = "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
CONTROLLER = {  # as Pipelines installs it
    "workflowDefaults": "spec:\n  templateDefaults:\n    retryStrategy:\n      limit: '2'\n      retryPolicy: OnError\n"
}


def secret(*keys: str) -> dict[str, object]:
    return {"kind": "Secret", "apiVersion": "v1", "data": dict.fromkeys(keys, "aHVzaA==")}


def doctor(*arguments: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit code, and (state, text) by what was looked at."""
    ended = CliRunner().invoke(app, ["doctor", *arguments])
    lines: dict[str, list[tuple[str, str]]] = {}
    for line in ended.output.splitlines():
        state, what, text = line[:11].strip(), line[12:22].strip(), line[23:]
        lines.setdefault(what, []).append((state, text))
    return ended.exit_code, lines
