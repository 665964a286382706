"""Stand-ins for the functions that the steps call; the environment variable CLIPTEA_FAKE (JSON) shapes them.

variants  labels of the variants
wait      "step" or "step label" -> seconds that it takes, told as a bar of ten units a second
fail      "step" or "step label" -> "user" (an error of the user's), "setting", "bug" or "kill"
stubborn  names of steps that ignore SIGTERM
helper    names of steps that start a process in another session
unchanged whether an earlier run had the same data and settings
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ConfigDict

from cliptea import progress
from cliptea.config import Config
from cliptea.errors import ConfigError, DataError

FAKE = json.loads(os.environ.get("CLIPTEA_FAKE", "{}"))


class Anything(BaseModel):
    """What the fake steps hand on."""

    model_config = ConfigDict(extra="allow")


Manifest = Splits = MadePart = TeacherCache = Evaluated = Comparison = Anything


class TrainInputs(Anything):
    @classmethod
    def read(cls, run, label, shards, cache):
        from cliptea.steps.common import read

        inputs = {"splits": read(shards, Anything), "teacher": read(cache, Anything)}
        return cls(run=run, variant=run.variant(label), **inputs)


class Variant(BaseModel):
    label: str
    seed: int


class Run(BaseModel):
    job_id: str
    tracking_run: str = ""
    preset: str
    text: str
    overrides: list[str]
    variants: list[Variant]

    def variant(self, label):
        return next(variant for variant in self.variants if variant.label == label)


def load(preset, overrides, text):
    if preset == "unknown":
        raise ConfigError("the preset 'unknown' does not exist")
    return Config()


def store() -> Path:
    return Path(unquote(urlparse(os.environ["CLIPTEA_STORE"]).path))


def work(step: str, label: str = "", **result) -> Anything:
    who = f"{step} {label}".strip()
    made = store() / f"{who.replace('/', '-')}.json"
    if made.exists():
        progress.reused()
        return Anything.model_validate_json(made.read_text())
    if step in FAKE.get("stubborn", []):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if step in FAKE.get("helper", []):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    wait = FAKE.get("wait", {})
    seconds = wait.get(who, wait.get(step, 0))
    if seconds:
        with progress.bar("working", total=int(seconds * 10), unit="it") as bar:
            for unit in range(int(seconds * 10)):
                time.sleep(0.1)
                bar.update(1, loss=1 / (unit + 1))
    how = FAKE.get("fail", {}).get(who, FAKE.get("fail", {}).get(step))
    if how == "user":
        raise DataError("the image a.png is 3 x 4", "5 x 6 as its mask", "mend it")
    if how == "setting":
        raise ConfigError("the class 'cat' is unknown")
    if how == "bug":
        raise KeyError("no such thing")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    result = {"step": step, "label": label, "threads": int(os.environ["CLIPTEA_THREADS"]), **result}
    made.write_text(json.dumps(result))
    return Anything(**result)


def skip(run):
    return FAKE["unchanged"]


def check(config):
    """Everything fits."""


def start_run(preset, overrides, job_id, text, part):
    labels = FAKE.get("variants", ["one", "two"])
    work_once = FAKE.get("fail", {}).get("resolve")
    if work_once:
        work("resolve")
    return Run(
        job_id=job_id,
        preset=preset,
        text=text,
        overrides=overrides,
        variants=[Variant(label=label, seed=index) for index, label in enumerate(labels)],
    )


def make_splits(run):
    progress.note(f"preset {run.preset}, overrides {run.overrides}")
    if run.text:
        progress.note(f"settings {run.text}")
    return work("split", images=7)


def log_splits(run, splits):
    assert splits.images == 7


def make_tokens(run, splits, part, parts):
    assert splits.images == 7
    assert (part, parts) == (0, 1)
    return work("tokens", views=14)


def publish_cache(run, splits, made):
    assert [part.views for part in made] == [14]
    return work("teacher", views=14)


def train_variant(inputs):
    assert (inputs.splits.step, inputs.teacher.step) == ("split", "teacher")
    return work("train", inputs.variant.label, seed=inputs.variant.seed)


def evaluate_variant(run, variant, splits, teacher, trained):
    assert trained.label == variant.label
    assert type(trained.seed) is int
    return work("evaluate", variant.label, seed=trained.seed, scalars={"hiou": 0.0625})


def compare_variants(run, splits, teacher, evaluations):
    made = work("compare", order=[item.label for item in evaluations])
    rows = [
        {"variant": item.label, "group": "g", "backbone": "b", "dataset": "d", "seed": item.seed}
        | {"pAcc": 0.5, "miou_seen": 0.25, "miou_unseen": 0.125, "hiou": 0.0625}
        for item in evaluations
    ]
    for name, text in (("report.html", "<p>report</p>"), ("results.json", json.dumps(rows))):
        (store() / name).write_text(text)
    uris = {name.partition(".")[0]: (store() / name).as_uri() for name in ("report.html", "results.json")}
    hashes = {name: hashlib.sha256((store() / Path(uri).name).read_bytes()).hexdigest() for name, uri in uris.items()}
    progress.publish(**uris, **{f"{name}_sha256": sha256 for name, sha256 in hashes.items()})
    return made.model_copy(update=uris | {"hashes": hashes, "best": {"hiou": 0.0625}})


def promote_best(run, comparison):
    progress.publish(model="models:/cliptea-demo/3")
    return work("promote", order=comparison.order)


def mark_complete(tracking_run):
    assert tracking_run == ""


def finish_run(job_id, state, error):
    with (store() / "finished.jsonl").open("a") as file:
        file.write(json.dumps({"job_id": job_id, "state": state, "error": error}) + "\n")
