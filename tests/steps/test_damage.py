"""One wrong bit in any object of a finished run never changes a score: it is refused, made anew, or of no matter."""

import random
import shutil

import pytest
import torch
from mlflow import MlflowClient
from small_run import Place, copied

from cliptea import manifest, progress
from cliptea.errors import ClipteaError
from cliptea.tracking.runs import ChildRun

# What a second run changes, so that it reads the objects of this kind to make others.
READS = {
    "demo-teacher": "teacher.views=2",
    "dense": "method.clustering.rounds=3",
    "train": "evaluation.sweep=[0.25]",
    "split": "train.lr=0.001",
    "tokens": "train.lr=0.001",
    "regions": "train.lr=0.001",
    "text": "train.lr=0.001",
    "clip-time": "promotion.margin=0.1",
    "evaluate": "promotion.margin=0.1",  # the report is made anew
    "speed": "promotion.margin=0.1",
    "compare": "promotion.margin=0.1",
    "tracked": "promotion.margin=0.1",
    "uses": "promotion.margin=0.1",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_database):
    """A finished run, and the scores of it and of each second run when nothing is damaged."""
    root, database = tmp_path_factory.mktemp("finished"), shutil.copy(empty_database, tmp_path_factory.mktemp("mlflow"))
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTEA_EVENTS", str(tmp_path_factory.mktemp("events") / "events"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        patch.setattr(ChildRun, "log_model", lambda self, files, description: None)  # seconds, and nothing reads it
        place = Place(root, patch)
        wanted = {"": place.scores()}
        for change in dict.fromkeys(READS.values()):
            wanted[change] = copied(place, tmp_path_factory.mktemp("sound")).scores(change)
        yield place, wanted


def damaged(data, draw):
    """The data with one wrong bit anywhere, and if it is JSON, with one in a digit of a number."""
    wrong = bytearray(data)
    wrong[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    yield bytes(wrong)
    digits = [place for place, byte in enumerate(data) if byte in b"0123456789"] if data[:1] == b"{" else []
    if digits:
        wrong = bytearray(data)
        wrong[draw.choice(digits)] ^= 1  # another digit
        yield bytes(wrong)


def outcome(place, wanted, path, data, folder, said):
    """What a run says after the object has changed, and what a second run says that reads it; scores never change."""
    kind = path.relative_to(place.root).parts[0]
    copy = copied(place, folder)
    target = copy.root / path.relative_to(place.root)
    target.write_bytes(data)
    said.clear()
    for change in ("", READS[kind]):
        try:
            assert copy.scores(*filter(None, [change])) == wanted[change], f"{path} changed the scores with {change!r}"
        except ClipteaError as error:
            said.append(str(error))
    shutil.rmtree(folder)
    return [line for line in said if "damaged" in line or "sha256" in line]


def walk(place, wanted, paths, tmp_path, monkeypatch):
    """Damage every object in turn. Returns the kinds of which damage was noticed."""
    said, noticed = [], set()
    monkeypatch.setattr(progress, "note", said.append)
    monkeypatch.setattr(progress, "warn", said.append)
    for path in paths:
        draw = random.Random(path.name)
        for number, data in enumerate(damaged(path.read_bytes(), draw)):
            if outcome(place, wanted, path, data, tmp_path / f"{number}", said):
                noticed.add(path.relative_to(place.root).parts[0])
    return noticed


def test_a_wrong_digit_in_what_is_reported_is_noticed(finished, tmp_path, monkeypatch):
    """The manifest with the scores, and the results themselves."""
    place, wanted = finished
    paths = [path for path in place.objects() if path.parts[-3] == "evaluate" and path.name == "manifest.json"]
    paths += [path for path in place.objects() if path.name == "results.json" or path.match("train/*/model-*")]
    assert walk(place, wanted, paths, tmp_path, monkeypatch) == {"evaluate", "compare", "train"}


def test_the_teacher_s_weights_are_checked_when_tokens_are_made_from_them(finished, tmp_path, monkeypatch):
    place, wanted = finished
    (weights,) = [path for path in place.objects() if path.name == "open_clip_model.safetensors"]
    assert walk(place, wanted, [weights], tmp_path, monkeypatch) == {"demo-teacher"}


def test_a_large_report_with_a_wrong_bit_is_made_anew_in_the_same_run(finished, tmp_path, monkeypatch):
    place, wanted = finished
    monkeypatch.setattr(manifest, "SMALL", 0)
    copy, said = copied(place, tmp_path), []
    monkeypatch.setattr(progress, "note", said.append)
    reports = [path for path in copy.objects() if path.name in {"report.html", "results.json"}]
    assert len(reports) == 2
    for path in reports:
        path.write_bytes(next(damaged(path.read_bytes(), random.Random(0))))
    assert copy.scores() == wanted[""]
    assert "damaged" in said[0]


def test_a_wrong_bit_in_a_score_in_the_registry_is_mended_when_the_run_is_started_again(finished, tmp_path):
    place, wanted = finished
    copy, client = copied(place, tmp_path), MlflowClient()
    (name,) = [model.name for model in client.search_registered_models()]
    whole = client.get_model_version(name, "1").tags
    for tag in ("hiou", "cliptea.evaluation", "cliptea.margin", "cliptea.score_sha256"):
        wrong = next(damaged(whole[tag].encode(), random.Random(tag))).decode("ascii", "backslashreplace")
        client.set_model_version_tag(name, "1", tag, wrong)
        assert copy.scores() == wanted[""]
        assert {key: client.get_model_version(name, "1").tags[key] for key in whole} == whole, tag


@pytest.mark.long
@pytest.mark.parametrize(
    ("small", "ends"), [(manifest.SMALL, {"split", "tokens"}), (0, {"split", "tokens", "train", "evaluate"})]
)
def test_a_run_that_a_wrong_bit_has_ended_succeeds_when_it_is_started_again(
    finished, tmp_path, monkeypatch, small, ends
):
    place, wanted = finished
    monkeypatch.setattr(manifest, "SMALL", small)
    ended = set()
    for number, path in enumerate(place.objects()):
        kind, copy = path.relative_to(place.root).parts[0], copied(place, tmp_path / f"{number}")
        if path.name == "manifest.json" or kind in {"tracked", "uses"}:
            continue
        (copy.root / path.relative_to(place.root)).write_bytes(
            next(damaged(path.read_bytes(), random.Random(path.name)))
        )
        try:
            scores = copy.scores(READS[kind])
        except ClipteaError:
            ended.add(kind)
            scores = copy.scores(READS[kind])
        assert scores == wanted[READS[kind]], path
        shutil.rmtree(copy.root)
    assert ends <= ended


@pytest.mark.long
def test_no_wrong_bit_in_any_object_changes_a_score(finished, tmp_path, monkeypatch):
    place, wanted = finished
    paths = place.objects()
    kinds = {path.relative_to(place.root).parts[0] for path in paths}
    assert kinds == set(READS)
    # A run only writes its list of outputs; `cliptea clean` reads it, and refuses a damaged one.
    assert walk(place, wanted, paths, tmp_path, monkeypatch) == kinds - {"uses"}
