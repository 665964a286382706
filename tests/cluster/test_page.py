"""The commands of docs/cluster.md and of the README's part on clusters, run in their order against fakes."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptea_pipeline.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()
README = re.search(r"^## On a cluster$.*?^## ", (ROOT / "README.md").read_text(), re.M | re.S)[0]
HANDS = {"NAME": "cliptea-voc12", "REGISTRY": "host", "IMAGE": "host/cliptea", "sha256:...": f"sha256:{'0' * 64}"}
HANDS |= {"NAMESPACE": "team", "RUN": "runs-0"}


@pytest.mark.parametrize("text", [PAGE, README], ids=["docs/cluster.md", "README.md"])
def test_each_command_of_cliptea_works(text, pipelines, watching, kubernetes, empty_database, tmp_path, monkeypatch):
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k8s").symlink_to(ROOT / "k8s")
    for block in re.findall(r"(?m)(?:^    [a-z_]+: .*\n)(?:^    .*\n)+", text):
        (tmp_path / "placement.yaml").write_text(filled(re.sub(r"(?m)^    ", "", block)))
    commands = [filled(line) for line in re.findall(r"^    (cliptea .*?)(?:  +#.*)?$", joined(text), re.M)]
    assert len(commands) >= 5
    for command in commands:
        _, name, *options = shlex.split(command)
        with monkeypatch.context() as patch:
            if name == "clean":  # which looks at store and MLflow
                patch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
                patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_database}")
            ended = CliRunner().invoke(app, [name, *options])
        placed = name == "doctor" and "--placement" in options  # wants GPUs and Trainer, which are not there
        assert ended.exit_code == int(placed), (command, ended.output)
    assert pipelines.held["runs"]
    assert pipelines.held["recurringruns"]


def joined(text: str) -> str:
    return re.sub(r" *\\\n *", " ", text)


def filled(text: str) -> str:
    for word, value in HANDS.items():
        text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", value, text)
    return text
