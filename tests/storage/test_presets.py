"""A preset file and its variants in a bucket, which resolve reads."""

import json
import shutil

import pytest

from cliptea.errors import ConfigError, StorageError
from cliptea.parse import MOST
from cliptea.preset_files import LARGEST, read_preset
from cliptea.steps.resolve import start_run
from cliptea.storage.local_files import cache_folder


@pytest.fixture
def started(store, environment, tmp_path, empty_database):
    """Starts a run of the preset own/my.yaml in the bucket."""
    environment.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    environment.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, tmp_path)}")

    def started(text, variants=b"long: {train: {iterations: 30}}"):
        store.put("own/my.yaml", text)
        store.put("own/sizes.yaml", variants)
        return start_run(store.uri("own/my.yaml"), [], "job")

    return started


PRESET = b"preset: smoke\nvariants: [./sizes.yaml]\n"


def test_a_run_follows_the_files_in_the_bucket(started):
    first = started(PRESET)
    assert first.config.preset == "my.yaml"
    assert [(variant.label, variant.config.train.iterations) for variant in first.variants] == [("sizes/long", 30)]
    assert started(PRESET).fingerprint == first.fingerprint
    other = started(PRESET, b"long: {train: {iterations: 31}}")
    assert [variant.config.train.iterations for variant in other.variants] == [31]
    assert other.fingerprint != first.fingerprint
    assert not (cache_folder() / "s3").exists()


def test_variants_in_the_bucket_are_no_parameter_of_a_pipeline(store):
    """So there may be thousands of them, which a local file may not have."""
    variants = "".join(f"v{number}: {{seeds: 1}}\n" for number in range(4000))
    store.put("own/my.yaml", PRESET)
    store.put("own/sizes.yaml", variants.encode())
    text = read_preset(store.uri("own/my.yaml"))
    assert len(text) > LARGEST
    assert len(json.loads(text)["variant_groups"]["sizes"]) == 4000


def test_code_and_large_files_in_the_bucket_are_refused(started, store):
    with pytest.raises(ConfigError, match=r"/own/my.yaml: data.dataset=my:Data names code to run"):
        started(PRESET + b"data: {dataset: 'my:Data'}\n")
    with pytest.raises(
        StorageError, match=rf"sizes.yaml has {MOST + 1} bytes; expected a file of at most {MOST} bytes"
    ):
        started(PRESET, b"#" * (MOST + 1))
