"""The plan against sums done by hand, and against what the steps really store."""

import io

import numpy as np
import open_clip
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from cliptea import settings
from cliptea.data.shard_writer import ShardWriter
from cliptea.errors import ConfigError
from cliptea.plan import REGIONS, make_plan, read_rates
from cliptea.storage import open_store
from cliptea.teacher.last_blocks import attending_tokens
from cliptea.teacher.outputs import REGION_BLOCKS
from cliptea_pipeline.cli import app
from cliptea_pipeline.planning import show_plan


def plan(preset, *overrides, rates=()):
    return make_plan(settings.load(preset, list(overrides)), read_rates(None, list(rates)))


def stored(folder, array) -> int:
    """Bytes that one more such array takes in a shard; the end of a tar file is padded to 20 blocks."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    sizes = []
    for count in (20, 60):
        writer = ShardWriter(open_store(folder.as_uri()), f"{count}/x", 1 << 30)
        for index in range(count):
            writer.add(f"{index}", {"npy": buffer.getvalue()})
        sizes.append(writer.close()[0].tar.size)
    return (sizes[1] - sizes[0]) // 40


def test_storage_is_what_shards_take(tmp_path):
    made = plan("voc12", "variants=[table3/full]", "data.root=/nowhere")
    cls, regions = np.zeros(512, np.float32), np.zeros((32, 32), np.uint8)
    assert made.view_bytes == stored(tmp_path / "a", cls) + stored(tmp_path / "b", regions)
    assert made.dense_bytes == stored(tmp_path / "c", np.zeros((512, 32, 32), np.float16))


def test_gpu_hours_are_images_over_rates():
    made = plan(
        "voc12", "variants=[table1]", "seeds=2", rates=["teacher=100", "segformer_b4=50", "swin_b=40", "segnext_b=30"]
    )
    assert made.images == 10582
    assert made.steps["train"] == 6
    assert list(made.steps)[:4] == ["resolve", "split", "tokens", "teacher"]
    training = 2 * 20000 * 16 * (1 / 50 + 1 / 40 + 1 / 30) / 3600
    views = 10582 * settings.load("voc12").teacher.views
    assert made.gpu_hours == pytest.approx(training + views / 100 / 3600)
    assert made.pays_from == pytest.approx(views / (20000 * 16))


def test_pictures_of_regions_are_counted_and_values_are_stored():
    """Two pictures of each of the assumed regions; tokens of two kinds instead of one."""
    rates = ["teacher=100", "segformer_b0=50"]
    plain = plan("voc12", "variants=[table3/full]", rates=rates)
    crop = "method.clustering.region_tokens=crop"
    made = plan("voc12", "variants=[table3/full]", crop, rates=rates)
    assert made.passes_per_region == 2
    assert made.gpu_hours - plain.gpu_hours == pytest.approx(2 * REGIONS * plain.teacher_gpu_hours)
    assert made.view_bytes - plain.view_bytes == 512 + 512 * -(-(128 + 4 * 512 * REGIONS) // 512)
    both = plan("voc12", "variants=[beyond/full, beyond/value, beyond/key]", rates=rates)
    assert both.dense_bytes == 2 * plain.dense_bytes + 512 + 512 * -(-(128 + 2 * 768 * 32 * 32) // 512)


def test_tokens_that_attend_to_regions_cost_what_their_operations_are(monkeypatch):
    """Counted by torch for a tower of random weights, beside one forward pass of it."""
    made = plan("voc12", "variants=[beyond/region_attention]", rates=["teacher=100", "segformer_b0=50"])
    passes = made.gpu_hours - made.students[0].gpu_hours
    assert passes / made.teacher_gpu_hours == pytest.approx(1 + made.attention_passes)
    tower = open_clip.create_model("ViT-B-16-quickgelu", force_image_size=512).visual.eval()
    tokens = [torch.randn(1, 1 + 32 * 32, 768) for _ in range(REGION_BLOCKS)]
    member = torch.rand(1, REGIONS, 32 * 32) < 0.2
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # its operations are not counted
    with torch.no_grad(), FlopCounterMode(display=False) as one_pass:
        tower(torch.randn(1, 3, 512, 512))
    with torch.no_grad(), FlopCounterMode(display=False) as attending:
        attending_tokens(tower, tokens, member)
    assert made.attention_passes == pytest.approx(attending.get_total_flops() / one_pass.get_total_flops(), rel=0.05)


def test_every_validation_scores_every_held_out_image():
    """10582 images, of which 2 % are 212; 20000 iterations hold six validations of 3000, and one at the end."""
    given = ["variants=[table1/segformer_b4]", "seeds=2", "train.held_out=0.02", "train.validate_every=3000"]
    made = plan("voc12", *given, rates=["segformer_b4=50"])
    assert made.validated_images == 2 * 7 * 212
    assert made.students[0].gpu_hours == pytest.approx(2 * (20000 * 16 + 7 * 212) / 50 / 3600)
    whole = plan("voc12", *given[:3], "train.validate_every=20000")
    assert whole.validated_images == 2 * 212
    assert plan("voc12", *given[:2]).validated_images == 0
    unknown = plan("folder", *given, "teacher.weights=demo", rates=["segformer_b4=50"])
    assert (unknown.validated_images, unknown.students[0].gpu_hours) == (None, None)


def test_the_trials_of_a_sweep_are_shown_with_their_settings():
    made = plan("smoke", "variants=[a]", "variant_groups.a.lr.sweep={train.lr: [0.1, 0.2]}", "train.validate_every=2")
    assert made.trials == {"a/lr-01 lr_0.1": {"train.lr": 0.1}, "a/lr-02 lr_0.2": {"train.lr": 0.2}}
    assert made.trainings == 2


def test_what_is_not_measured_is_unknown():
    made = plan("voc12", "variants=[table1/segformer_b4]", rates=["segformer_b4=50"])
    assert made.students[0].gpu_hours == pytest.approx(20000 * 16 / 50 / 3600)
    assert made.gpu_hours is None


def test_what_is_missing_is_named(tmp_path):
    made = plan("voc12", "variants=[table1/segformer_b4]", "evaluation.sets.pascal_context.root=/nowhere/at/all")
    text = "\n".join(made.missing)
    assert "data.root is not set" in text
    assert "evaluation.sets.pascal_context.root=/nowhere/at/all is not a folder" in text
    assert "teacher.weights=openai will be downloaded" in text
    there = plan("voc12", f"data.root={tmp_path}", f"teacher.weights={tmp_path}", "student.pretrained=false")
    assert there.missing == []


@pytest.mark.parametrize("given", ["segformer_b4", "segformer_b4=fast", "segformer_b4=0", "segformer_b4=-3"])
def test_a_throughput_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match="images per second"):
        read_rates(None, [given])


def test_a_benchmark_file_is_overruled_by_what_is_given(tmp_path):
    file = tmp_path / "results.json"
    file.write_text('{"machine": {"gpu": "H200"}, "images_per_second": {"teacher": 100, "swin_b": 20}}')
    assert read_rates(file, ["swin_b=30"]) == {"teacher": 100, "swin_b": 30}
    with pytest.raises(ConfigError, match="cannot read the throughput"):
        read_rates(tmp_path / "none.json", [])


def test_a_benchmark_file_of_a_machine_without_a_gpu_is_refused(tmp_path):
    file = tmp_path / "results.json"
    file.write_text('{"machine": {"gpu": null}, "images_per_second": {"teacher": 100}}')
    with pytest.raises(ConfigError, match=r"results\.json was measured on a machine without a GPU"):
        read_rates(file, ["swin_b=30"])


def test_a_file_may_hold_rates_that_the_run_does_not_use_and_the_command_line_may_not(tmp_path):
    file = tmp_path / "results.json"
    file.write_text('{"machine": {"gpu": "H200"}, "images_per_second": {"teacher": 100, "swin_b": 20}}')
    command = ["plan", "--preset", "smoke", "--set", "variants=[backbones/demo_fpn]", "--benchmark", str(file)]
    used = CliRunner().invoke(app, [*command, "--throughput", "demo_fpn=40"])
    assert used.exit_code == 0, used.output
    refused = CliRunner().invoke(app, [*command, "--throughput", "swin_b=40"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "the throughput of swin_b has no effect" in refused.stderr


def test_the_plan_says_why_hours_are_unknown():
    told = []
    for preset in ("voc12", "folder"):
        console = Console(file=io.StringIO(), width=200)
        config = settings.load(preset, ["teacher.weights=openai"])
        show_plan(console, config, make_plan(config, {}), room=100)
        told.append([line for line in console.file.getvalue().splitlines() if line.startswith("CLIP forward passes")])
    assert "unknown; add --throughput NAME=NUMBER" in told[0][0]
    assert "unknown until the data are read" in told[1][0]


def test_the_plan_says_what_each_variant_is():
    made = plan("demo", "variants=[table3/no_ce, backbones/segformer_b0]", "seeds=2")
    assert made.variants == {
        "table3/no_ce": "Without the cross entropy",
        "backbones/segformer_b0": "The full method with SegFormer-B0",
    }


@pytest.mark.parametrize(
    "content",
    [
        *("{}", "[]", "null", '{"model_cfg": 3}', '{"model_cfg": {}}'),
        '{"model_cfg": {"embed_dim": "x", "vision_cfg": {}}}',
        '{"model_cfg": {"embed_dim": 512, "vision_cfg": {"layers": "many"}}}',
    ],
)
def test_a_folder_without_the_description_of_a_clip_is_one_line(tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"open_clip_config.json does not describe a CLIP; expected a model_cfg"):
        plan("voc12", "variants=[table1/segformer_b4]", f"teacher.weights={tmp_path}")
