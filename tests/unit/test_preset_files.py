"""Preset files and variant files of the user's own: what they mean, what travels of them, and what they may not do."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cliptea import preset_files, settings
from cliptea.errors import ConfigError
from cliptea.preset_files import read_preset
from cliptea.run import expand
from cliptea_pipeline import submit
from cliptea_pipeline.cli import app
from cliptea_pipeline.options import choose_preset

PAGE = Path(__file__).parents[2] / "docs/settings.md"
MINE = """
preset: smoke
variants: [baselines/full, mine]
variant_groups:
  mine:
    full:
    wide: {student: {backbone: segformer_b0, pretrained: true}, train: {iterations: 9}}
data: {unseen: [no, 010, null]}
train: {iterations: 7, head_lr_factor: null, amp: false}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return name

    return write


def load(name, overrides=()):
    return settings.load(name.rpartition("/")[2], overrides, read_preset(name))


def test_a_preset_file_lies_between_the_preset_that_it_names_and_set(write):
    config = load(write(MINE), ["train.iterations=8"])
    smoke = settings.load("smoke")
    assert config.preset == "mine.yaml"
    assert config.train == smoke.train.model_copy(update={"iterations": 8, "head_lr_factor": None, "amp": False})
    assert config.data.unseen == ["no", "010", "null"]  # names are what was written
    assert (config.teacher, config.evaluation) == (smoke.teacher, smoke.evaluation)


def test_a_preset_file_without_a_preset_builds_on_the_defaults(write):
    config = load(write("teacher: {weights: demo, views: 3}"))
    assert config == settings.Config(preset="mine.yaml", teacher={"weights": "demo", "views": 3})


def test_the_variants_of_a_file_are_trained_beside_shipped_ones(write):
    variants = {variant.label: variant for variant in expand(load(write(MINE)))}
    assert list(variants) == ["baselines/full", "mine/wide"]  # mine/full is the same as the first
    assert [(one.group, one.variant) for one in variants["baselines/full"].members] == [
        ("baselines", "full"),
        ("mine", "full"),
    ]
    wide = variants["mine/wide"].config
    assert (wide.student.backbone, wide.student.pretrained, wide.train.iterations) == ("segformer_b0", True, 9)
    assert wide.train.amp is False


def test_variant_files_are_named_beside_the_preset_file_and_travel_with_it(write, tmp_path):
    write("small: {about: A short one, train: {iterations: 3}}\nlong: {train: {iterations: 30}}", "own/sizes.yaml")
    name = write("preset: smoke\nvariants: [table4/max, ./sizes.yaml, sizes.yaml/small]", "own/mine.yaml")
    text = read_preset(name)
    for file in (tmp_path / "own").iterdir():
        file.unlink()
    config = settings.load("mine.yaml", [], text)
    assert config.variants == ["table4/max", "sizes", "sizes/small"]
    assert [variant.label for variant in expand(config)] == ["table4/max", "sizes/small", "sizes/long"]
    assert [variant.config.train.iterations for variant in expand(config)] == [8, 3, 30]
    assert [variant.members[0].about for variant in expand(config)][1:] == ["A short one", "train.iterations=30"]


def test_set_names_a_variant_file_in_the_current_folder_or_defines_a_variant(write):
    write("long: {train: {iterations: 30}}")
    config = settings.load("smoke", ["variants=[mine.yaml]", "variant_groups.two.b0.student.backbone=segformer_b0"])
    assert [variant.config.train.iterations for variant in expand(config)] == [30]
    config = settings.load("smoke", ["variants=[two]", "variant_groups.two.b0.student.pretrained=true"])
    assert [variant.config.student.pretrained for variant in expand(config)] == [True]


def test_files_in_a_bucket_are_read_by_whoever_needs_them(write, tmp_path, monkeypatch):
    write("preset: smoke\nvariants: [./sizes.yaml]\ntrain: {iterations: 5}")
    write("long: {train: {iterations: 30}}", "sizes.yaml")
    monkeypatch.setattr(
        preset_files, "read_small", lambda uri, most: (tmp_path / uri.removeprefix("s3://bucket/own/")).read_bytes()
    )
    assert choose_preset(None, "s3://bucket/own/mine.yaml") == ("s3://bucket/own/mine.yaml", "")
    config = settings.load("s3://bucket/own/mine.yaml", ["seeds=2"])
    assert (config.preset, config.train.iterations, config.seeds) == ("mine.yaml", 5, 2)
    assert [variant.label for variant in expand(config)] == ["sizes/long seed 0", "sizes/long seed 1"]
    write("preset: smoke\nvariants: [/tmp/sizes.yaml]")
    with pytest.raises(ConfigError, match=r"names the local variant file /tmp/sizes.yaml; expected an s3:// address"):
        settings.load("s3://bucket/own/mine.yaml")


MISTAKES = {
    "a value of any length": (
        f"data: {{root: {'x' * 10_001}}}",
        "mine.yaml: the key of a setting has 9 characters, and",
    ),
    "a key of any length": (
        f"data: {{{'x' * 1000}: 1}}",
        r"has 1005 characters, and its value has 1; expected at most 1000",
    ),
    "an alias of a long text": (
        f"data: {{root: &a {'x' * 5000}, classes: [{', '.join(['*a'] * 2000)}]}}",
        "cannot read mine.yaml.* it has more than 50000 values",
    ),
    "half of a character": (r'data: {root: "a\ud800"}', r"cannot read mine.yaml.* invalid Unicode character"),
    "a key": ("train: {iteratons: 3}", r"mine.yaml: the setting train.iteratons .*perhaps train.iterations"),
    "a value": ("train: {iterations: abc}", "mine.yaml: train.iterations=abc is refused"),
    "a preset": ("preset: voc21", r"mine.yaml: the preset 'voc21' does not exist; expected one of .*voc12"),
    "a preset that is a list": ("preset: [voc12]", r"mine.yaml: the preset .* does not exist"),
    "a group": ("variants: [tabel3]", r"group 'tabel3' does not exist; expected .*table3"),
    "a variant": ("variants: [mine/wid]\nvariant_groups: {mine: {wide: {}}}", r"no variant 'wid'; .*wide"),
    "a key of a variant": (
        "variant_groups: {mine: {wide: {studnet: {}}}}",
        r"variant_groups.mine.wide: the setting studnet does not exist; expected an existing key, perhaps student",
    ),
    "what no variant changes": (
        "variant_groups: {mine: {wide: {teacher: {views: 2}}}}",
        r"variant_groups.mine.wide changes teacher, which is the same .*; expected changes of seeds, method",
    ),
    "evaluation of a variant": (
        "variant_groups: {mine: {wide: {evaluation: {gamma: 2}}}}",
        r"variant_groups.mine.wide changes evaluation, which is the same for all students of a run",
    ),
    "groups that are a word": (
        "variants: [mine]\nvariant_groups: mine",
        r"mine.yaml: variant_groups=mine is refused; expected keys and values, such as \{KEY: VALUE\}",
    ),
    "a group that is a word": ("variant_groups: {mine: wide}", r"mine.yaml: variant_groups.mine=wide is refused"),
    "a shipped name": ("variant_groups: {table3: {full: {}}}", r"variant_groups.table3 has the name of a shipped"),
    "an odd name": ("variant_groups: {a/b: {full: {}}}", r"has the name 'a/b'; expected a name that MLflow accepts"),
    "nothing": ("", r"mine.yaml is empty or is not a mapping; expected settings such as"),
    "a list": ("- a", r"mine.yaml is empty or is not a mapping"),
    "no YAML": ("train: {", r"cannot read mine.yaml"),
    "a key twice": ("seeds: 1\nseeds: 2", r"cannot read mine.yaml, line 2: the key seeds appears twice"),
    "a file that is missing": ("variants: [./none.yaml]", r"cannot read the variant file none.yaml: it is missing"),
    "code": (
        "student: {backbone: 'my.module:net'}",
        r"mine.yaml: student.backbone=my.module:net names code to run, .*--set student.backbone=my.module:net",
    ),
    "code in a list": ("student: {backbone: ['my.module:net']}", r"student.backbone=my.module:net names code to run"),
    "code as a data set": ("data: {dataset: 'timm:create_model'}", r"data.dataset=timm:create_model names code to run"),
    "code as an evaluation set": (
        "evaluation: {sets: {a.b: {dataset: 'antigravity:geohash'}}}",
        r"evaluation.sets.a.b.dataset=antigravity:geohash names code to run",
    ),
    "code as a name": (
        "evaluation: {sets: {'antigravity:geohash': {}}}",
        r"evaluation.sets has the name 'antigravity:geohash': expected a name that MLflow accepts",
    ),
    "code of a variant with dots": (
        "variant_groups: {my.group: {a.b: {student: {backbone: 'my:net'}}}}",
        r"variant_groups.my.group.a.b.student.backbone=my:net names code to run",
    ),
    "code as a data set of a variant": (
        "variant_groups: {mine: {wide: {data: {dataset: 'my:Data'}}}}",
        r"variant_groups.mine.wide.data.dataset=my:Data names code to run",
    ),
    "code of a variant": (
        "variant_groups: {mine: {wide: {student: {backbone: 'my:net'}}}}",
        r"variant_groups.mine.wide.student.backbone=my:net names code to run",
    ),
    "a secret": ("store: {secret_key: x}", r"mine.yaml: the setting 'store.secret_key' looks like a secret"),
    "a secret of a variant": (
        "variant_groups: {mine: {wide: {train: {api_key: x}}}}",
        r"mine.yaml: the setting 'variant_groups.mine.wide.train.api_key' looks like a secret",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_that_names_it(mistake, write):
    text, says = MISTAKES[mistake]
    write(text if "preset" in text or not text.strip() or text[0] == "-" else f"{text}\nteacher: {{weights: demo}}")
    answer = CliRunner().invoke(app, ["config", "--config", "mine.yaml"])
    assert answer.exit_code == 2
    with pytest.raises(ConfigError, match=says):
        load("mine.yaml")
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""


@pytest.mark.parametrize(
    "line", ["data: {root: 's3://u:hunter2@b/x'}", "s3://u:hunter2@b/x: 1", "a: ['s3://u:hunter2@b']"]
)
def test_secrets_in_a_file_are_refused_and_not_repeated(line, write):
    with pytest.raises(ConfigError, match="a user, password or signature, and settings are printed") as caught:
        load(write(line))
    assert "hunter2" not in str(caught.value)


def test_names_that_are_free_may_be_any_words(write):
    names = {"private house": ["villa"], "secretary desk": ["desk"]}
    config = load(
        write("""
        teacher: {weights: demo}
        data: {synonyms: {private house: [villa], secretary desk: [desk]}}
        evaluation: {sets: {private photos: {dataset: folder, synonyms: {secret door: [door]}}}}
        variant_groups: {secretary: {password: {train: {iterations: 3}}}}
        student: {pretrained: {private_net: true}}
        """)
    )
    assert config.data.synonyms == names
    assert config.evaluation.sets["private photos"].synonyms == {"secret door": ["door"]}
    assert config.student.pretrained == {"private_net": True}
    typed = settings.load("smoke", [f"data.synonyms.{name}=[{one}]" for name, (one,) in names.items()])
    assert typed.data.synonyms == names


def test_an_encoder_of_timm_is_no_code(write):
    assert load(write("preset: smoke\nstudent: {backbone: 'timm:resnet18'}")).student.backbone == "timm:resnet18"


def test_a_variant_file_cannot_name_code(write):
    write("wide: {student: {backbone: 'my:net'}}", "sizes.yaml")
    typed = "variant_groups.sizes.wide.student.backbone=my:net"
    with pytest.raises(ConfigError) as caught:
        load(write("preset: smoke\nvariants: [sizes.yaml]"))
    assert str(caught.value) == (
        f"sizes.yaml: {typed} names code to run, and files may not do that; expected a name that cliptea knows; "
        f"if you trust this code, name it yourself with --set {typed}"
    )


def test_a_variant_file_with_the_name_of_a_shipped_group_is_named(write):
    write("wide: {}", "own/table3.yaml")
    with pytest.raises(ConfigError, match=r"^the variant file own/table3.yaml has the name of the .*; rename the file"):
        load(write("preset: smoke\nvariants: [own/table3.yaml]"))


def test_a_suffix_can_have_any_case(write):
    write("long: {train: {iterations: 30}}", "SIZES.YAML")
    config = load(write("preset: smoke\nvariants: [SIZES.YAML, SIZES.YAML/long]"))
    assert config.variants == ["SIZES", "SIZES/long"]


def test_a_user_that_does_not_exist_is_one_line(write):
    for load_it in (
        lambda: read_preset("~no-such-user/my.yaml"),
        lambda: settings.load("smoke", ["variants=[~no-such-user/my.yaml]"]),
    ):
        with pytest.raises(ConfigError, match=r"file ~no-such-user/my.yaml: there is no such user; expected a path$"):
            load_it()


def test_a_mistake_of_set_is_not_blamed_on_the_file(write):
    with pytest.raises(ConfigError, match=r"^the setting train.iteratons does not exist"):
        load(write("preset: smoke"), ["train.iteratons=3"])


def test_two_variant_files_of_one_name_are_refused(write):
    write("one: {}", "a/sizes.yaml")
    write("two: {}", "b/sizes.yaml")
    with pytest.raises(ConfigError, match=r"b/sizes.yaml is one of two groups called sizes; .*; rename the file"):
        load(write("preset: smoke\nvariants: [a/sizes.yaml, b/sizes.yaml]"))


def test_files_that_are_no_small_text_are_refused(write, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"the preset file mine.yaml is not UTF-8"):
        read_preset("mine.yaml")
    write("variant_groups: {mine: {" + ", ".join(f"v{n}: {{seeds: 1}}" for n in range(4000)) + "}}")
    with pytest.raises(ConfigError, match=r"mine.yaml holds \d+ bytes of settings .* at most 64 KiB; put .* bucket"):
        read_preset("mine.yaml")


def test_only_one_of_preset_and_config(write):
    answer = CliRunner().invoke(app, ["config", "--preset", "smoke", "--config", write(MINE)])
    assert (answer.exit_code, answer.stderr.startswith("error: --preset and --config are both given")) == (2, True)


def test_what_is_submitted_needs_no_file_of_this_machine(write, tmp_path):
    write("long: {train: {iterations: 30}}", "sizes.yaml")
    name, text = choose_preset(None, write("preset: smoke\nvariants: [sizes.yaml]"))
    given = submit.parameters(name, ["seeds=2"], text=text)
    for file in tmp_path.iterdir():
        file.unlink()
    assert {key: value for key, value in given.items() if key != "config"} == {
        "preset": "mine.yaml",
        "overrides": ["seeds=2"],
        "skip_unchanged": False,
        "part": "",
    }
    there = settings.load(given["preset"], given["overrides"], given["config"])
    assert [variant.label for variant in expand(there)] == ["sizes/long seed 0", "sizes/long seed 1"]
    with pytest.raises(ConfigError, match=r"variants names the file ./sizes.yaml on this machine, where pods cannot"):
        submit.parameters("smoke", ["variants=[./sizes.yaml]"])


def test_what_is_given_to_a_pipeline_without_a_name_has_not_that_of_a_preset():
    config = settings.load("demo", [], "teacher: {weights: demo}")
    assert config == settings.Config(preset="config", teacher={"weights": "demo"})


def test_the_text_of_a_file_is_json_and_yaml_alike(write):
    text = read_preset(write("preset: smoke\ndata: {unseen: ['é 😀', \"a\\tb\"]}"))
    assert json.loads(text) == {"preset": "smoke", "data": {"unseen": ["é 😀", "a\tb"]}}
    assert settings.load("mine.yaml", [], text).data.unseen == ["é 😀", "a\tb"]


def test_the_example_of_the_page_is_a_preset_file(write):
    text, *_ = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    write("deep: {method: {generator_layers: 6}}", "more.yaml")
    config = load(write(text, "my.yaml"))
    assert (config.preset, config.data.dataset, config.data.root) == ("my.yaml", "voc12", "VOCdevkit")
    assert [variant.label for variant in expand(config)] == ["mine/full", "mine/wide", "more/deep"]
