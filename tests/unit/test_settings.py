"""Settings: deltas, overrides, and one line for each mistake."""

import pytest

from cliptea import nested, settings, variant_groups
from cliptea.config import Config
from cliptea.errors import ClipteaError, ConfigError
from cliptea.run import expand
from cliptea.steps import preflight, resolve
from cliptea.sweeps import Trial


def test_every_preset_and_variant_validates():
    assert {"demo", "smoke", "folder"} <= set(settings.presets())
    for preset in settings.presets():
        config = settings.load(preset, ["teacher.weights=demo"])
        assert config.preset == preset
        for group in variant_groups.variant_groups():
            for delta in variant_groups.variant_group(group).values():
                variant_groups.apply_delta(config, delta)


@pytest.mark.parametrize("group", variant_groups.variant_groups())
def test_every_shipped_variant_says_in_one_line_what_it_is(group):
    for variant, delta in variant_groups.variant_group(group).items():
        about = delta["about"]
        assert variant_groups.about_variant(delta) == about
        assert 5 < len(about) < 110, variant
        assert about[0].isupper()
        assert about[-1] not in ".;"


def test_a_variant_without_a_description_is_described_by_the_settings_that_it_changes():
    config = settings.load(
        "smoke",
        ["variants=[mine]", "variant_groups.mine={plain: {}, two: {train: {iterations: 3}, method: {pseudo: false}}}"],
    )
    abouts = {member.variant: member.about for variant in expand(config) for member in variant.members}
    assert abouts == {
        "plain": "The settings of the run",
        "two": "train.iterations=3, method.pseudo=False",
    }


def test_a_long_list_of_changes_is_cut():
    long = {"train": {f"setting{number}": number for number in range(50)}}
    assert variant_groups.about_variant({"about": "x" * 200}) == "x" * 200
    trial = Trial(sweep="s", settings={"train.iterations": 3})
    for delta, drawn in ((long, None), ({"about": "x" * 195}, trial)):
        text = variant_groups.about_variant(delta, drawn)
        assert len(text) == 200
        assert text.endswith("…")


def test_a_description_changes_no_student_and_no_fingerprint():
    said = [
        settings.load("smoke", ["variants=[mine]", f"variant_groups.mine.few={{train: {{iterations: 3}}{about}}}"])
        for about in ("", ", about: Three iterations", ', about: "Three, and no more"')
    ]
    variants = [expand(config) for config in said]
    assert [one[0].members[0].about for one in variants] == [
        "train.iterations=3",
        "Three iterations",
        "Three, and no more",
    ]
    assert len({one[0].config.model_dump_json() for one in variants}) == 1
    counting = [resolve._counting(config, one) for config, one in zip(said, variants, strict=True)]
    assert counting[0] == counting[1] == counting[2]


@pytest.mark.parametrize("about", ["[a, b]", '"two\\nlines"', "x" * 201])
def test_a_description_is_one_line(about):
    with pytest.raises(ConfigError, match=r"variant_groups\.mine\.few\.about=.* is refused; expected one line"):
        settings.load("smoke", ["variants=[mine]", f"variant_groups.mine.few={{about: {about}}}"])


@pytest.mark.parametrize("given", ["held_out=0.2", "keep=best", "patience=3"])
def test_what_only_counts_with_validation_is_refused_without_it(given):
    with pytest.raises(ConfigError, match=f"{given} has no effect without validation; expected validate_every=N"):
        settings.load("smoke", [f"train.{given}"])
    settings.load("smoke", [f"train.{given}", "train.validate_every=4"])


@pytest.mark.parametrize("given", ["held_out=0", "held_out=1", "held_out=.nan", "keep=first", "patience=0"])
def test_settings_of_validation_that_make_no_sense_are_refused(given):
    with pytest.raises(ConfigError, match=given.partition("=")[0]):
        settings.load("smoke", ["train.validate_every=4", f"train.{given}"])


@pytest.mark.parametrize(("images", "share", "held"), [(100, 0.25, 25), (2, 0.99, 1), (32, 0.01, 1), (10, 0.999, 9)])
def test_one_image_at_least_is_held_out_and_one_is_left(images, share, held):
    train = settings.load("smoke", ["train.validate_every=3", f"train.held_out={share}"]).train
    assert train.held_out_of(images) == held
    assert (train.iterations, train.validations) == (8, 3)
    assert settings.load("smoke").train.held_out_of(images) == 0


def test_overrides_win_over_presets_and_are_typed():
    config = settings.load("demo", ["train.lr=1e-3", "data.unseen=[zebra, plum]", "train.iterations=7"])
    assert (config.train.lr, config.train.iterations) == (1e-3, 7)
    assert config.data.unseen == ["zebra", "plum"]
    assert config.teacher.views == settings.load("demo").teacher.views  # the preset's own stay


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data.root", "photos #2", "photos #2"),
        ("data.root", "no", "no"),
        ("data.root", "2024-01-01", "2024-01-01"),
        ("data.root", "010", "010"),
        ("data.root", "[old]/photos", "[old]/photos"),
        ("data.root", "a: b", "a: b"),
        ("data.root", " x ", " x "),
        ("data.root", "*x", "*x"),
        ("data.root", "null", None),
        ("data.root", "~", "~"),
        ("train.iterations", "010", 10),
        ("train.lr", "6e-5", 6e-5),
        ("train.amp", "false", False),
        ("train.head_lr_factor", "null", None),
        ("evaluation.figures", "3", 3),
        ("evaluation.figures", "[010, no]", ["010", "no"]),
        ("data.unseen", "[no, 2:30, null, true, 'red, white']", ["no", "2:30", "null", "true", "red, white"]),
        ("data.unseen", '["a \\u00e9", "b"]', ["a \u00e9", "b"]),
        ("student.pretrained", "true", True),
        ("student.pretrained", "no", "no"),
        ("student.pretrained", "{swin_b: true, segnext_b: 'a #2.pth'}", {"swin_b": True, "segnext_b": "a #2.pth"}),
        ("student.pretrained.swin_b", "true", {"swin_b": True}),
        ("teacher.base_scale", "[64, 032]", (64, 32)),
        ("method.clustering.windows", "[3]", (3,)),
        ("teacher.templates", "multi", "multi"),
        ("teacher.templates", "['{}, seen', 'a {}.']", ["{}, seen", "a {}."]),
        ("train.lr_scale.swin_b", "0.5", {"segformer_b0": 0.5, "convnext_atto": 0.5, "swin_b": 0.5}),
    ],
)
def test_a_value_is_what_was_typed_and_its_type_that_of_the_setting(key, text, value):
    found = settings.load("demo", [f"{key}={text}"])
    for part in key.split("."):
        found = found if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "override",
    [
        "data.unseen=[zebra] #2, plum]",
        "data.unseen=[zebra #2, plum]",
        "data.unseen=[zebra,\n plum # x\n]",
        "data.unseen=[\u00e9\u00e9, zebra,#2\n plum]",
        "student.pretrained={segformer_b0: a.pth} #2",
        "teacher.templates=['a # {}', \"{}\"]\t#",
    ],
)
def test_no_part_of_a_value_is_left_out_as_a_comment(override):
    with pytest.raises(ConfigError) as caught:
        settings.load("demo", [override])
    assert str(caught.value).startswith(f"cannot read the value of {override.partition('=')[0]}")
    assert "what follows # would be a comment; write a name with # in quotes; expected a list" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"), [("[\u00e9#2, 'a #b', \"c # d\"]", ["\u00e9#2", "a #b", "c # d"]), ("[a#, b]", ["a#", "b"])]
)
def test_a_hash_within_a_name_is_part_of_it(text, names):
    assert settings.load("demo", [f"data.unseen={text}"]).data.unseen == names


def test_a_class_of_the_users_own_may_have_any_root():
    own = ["data.dataset=farm:Farm", "data.root=gs://b/x"]
    assert settings.load("demo", own).data.root == "gs://b/x"
    with pytest.raises(ConfigError, match=r"^data\.root=gs://b/x is refused; expected a path on this machine"):
        settings.load("demo", own[1:])


def test_a_tilde_is_the_home_folder_and_otherwise_nothing():
    config = settings.load("demo", ["data.root=~", "train.patience=~"])
    assert (config.data.root, config.train.patience) == ("~", None)


PLACES = "expected a path on this machine, s3://BUCKET/KEY or file:///absolute/path"


@pytest.mark.parametrize("address", ["gs://b/x", "https://host/x", "S3://b/x", "HTTPS:/x", "hdfs://x", "ftp:/x"])
@pytest.mark.parametrize(
    "key",
    ["data.root", "evaluation.sets.voc12.root", "evaluation.sets.voc12.text_features", "teacher.weights",
     "teacher.text_features", "student.pretrained", "student.pretrained.segformer_b0", "train.init_from"],
)  # fmt: skip
def test_an_address_that_nobody_can_read_is_refused_with_its_setting(key, address):
    with pytest.raises(ConfigError) as caught:
        settings.load("demo", [f"{key}={address}"])
    said = str(caught.value)
    assert said.startswith(f"{key}={address} is refused; expected ")
    if key == "train.init_from":
        assert "a folder, s3://BUCKET/FOLDER, models:/NAME@champion" in said
    elif "pretrained" in key:
        assert PLACES.removeprefix("expected ") in said
    else:
        assert PLACES in said


def test_every_setting_of_a_file_takes_the_addresses_that_can_be_read(tmp_path):
    for address in ("s3://b/x", tmp_path.as_uri(), "a:b/c", "./gs://x", "C:", "x y"):
        for key in ("data.root", "teacher.weights", "student.pretrained"):
            settings.load("demo", [f"{key}={address}"])


@pytest.mark.parametrize("given", ["train.iterations=1_000", "train.iterations=5.0", "train.accumulate=1e0"])
def test_a_whole_number_is_written_with_digits_only(given):
    with pytest.raises(ConfigError) as caught:
        settings.load("demo", [given])
    assert str(caught.value) == f"{given} is refused; expected a whole number in digits, such as 1000"


def numbers(schema, definitions, path=""):
    """The path and the schema of each number in a JSON schema."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, inner in schema.get("properties", {}).items():
        yield from numbers(inner, definitions, f"{path}.{name}" if path else name)
    inner = [*schema.get("anyOf", []), *schema.get("prefixItems", [])]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for one in inner:
        yield from numbers(one, definitions, path)
    if schema.get("type") in ("integer", "number"):
        yield path, schema


def test_every_number_has_bounds():
    schema = Config.model_json_schema()
    found = list(numbers(schema, schema["$defs"]))
    assert {"train.iterations", "train.lr", "teacher.base_scale", "evaluation.sweep", "evaluation.sets.gamma"} <= {
        path for path, _ in found
    }
    for path, limits in found:
        assert limits.keys() & {"minimum", "exclusiveMinimum"}, path
        assert limits.keys() & {"maximum", "exclusiveMaximum"}, path


@pytest.mark.parametrize(
    "text", ["1e29", "1" + "0" * 29, "nan", "inf", "-inf", "-1e29", "0x10", "2:30", "1e999", "1_000"]
)
def test_absurd_numbers_are_refused_in_every_setting(text):
    flat = nested.flatten(settings.load("demo").model_dump())
    keys = [key for key, value in flat.items() if type(value) in (int, float)]
    assert len(keys) > 40
    for key in keys:
        with pytest.raises(ConfigError, match=f"{key}.*={text[:10]}"):
            settings.load("demo", [f"{key}={text}"])


def test_a_delta_changes_only_what_it_names():
    base = settings.load("demo")
    changed = variant_groups.apply_delta(base, {"method": {"losses": {"ce": False}}})
    assert not changed.method.losses.ce
    assert changed.model_copy(update={"method": base.method}) == base


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.iteratons=3", "perhaps train.iterations"),
        ("teacher.lr=0.1", "perhaps teacher.pretrain.lr or train.lr"),
        ("train.views=2", "perhaps teacher.views"),
        ("train.iterations=abc", "train.iterations=abc is refused"),
        ("train.iterations=1e3", "train.iterations=1e3 is refused; expected a whole number in digits, such as 1000"),
        ("train.lr=fast", "train.lr=fast is refused; expected a number, such as 0.001"),
        ("variants=mine", r"variants=mine is refused; expected a list in brackets, such as variants=[mine]"),
        ("teacher.views=0", "teacher.views=0 is refused"),
        ("train.batch_size=0", "train.batch_size"),
        ("evaluation.divisor=0", "evaluation.divisor"),
        ("evaluation.gamma=.nan", "evaluation.gamma"),
        ("train.lr=.inf", "train.lr"),
        (
            "train.processes=32",
            "cannot be divided into 32 equal parts (32 processes); expected a multiple of 32",
        ),
        ("teacher.ratio_range=[2, 1]", "low <= high"),
        ("variants=[tabel3]", "table3"),
        ("variants=[table3/no_cee]", "no_ce"),
        ("method.generator=cnn", "mlp"),
        ("teacher.templates=all", "teacher.templates is 'all': expected single, multi or a list such as"),
        ("teacher.templates=[a photo]", "teacher.templates has 'a photo': expected exactly one {} in each"),
        ("teacher.templates=['{}', '{} or {}']", "teacher.templates has '{} or {}': expected exactly one {}"),
        ("evaluation.sets.voc12.templates=[x]", "evaluation.sets.voc12.templates has 'x': expected exactly one"),
        (
            "evaluation.sets.voc12={synonyms: {a: [b]}, text_features: a.npy}",
            "sets.voc12.synonyms and text_features are",
        ),
        ("data.synonyms.cow=[]", "data.synonyms.cow=[] is refused"),
        ("teacher.weights=null", "teacher.weights is not set"),
        ("store.secret_key=x", "secret"),
        ("nonsense", "key=value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(override, says):
    with pytest.raises(ConfigError) as caught:
        settings.load("demo", [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "teacher.templates=[]",
            "teacher.templates=[] is refused: list should have at least 1 item after validation, not 0",
        ),
        (
            "evaluation.figures=-1",
            "evaluation.figures=-1 is refused: input should be greater than or equal to 0",
        ),
        ("evaluation.figures=[[a]]", "evaluation.figures.0=['a'] is refused: input should be a valid string"),
        (
            "evaluation.sets.voc12.templates=[]",
            "evaluation.sets.voc12.templates=[] is refused: list should have at least 1 item after validation, not 0",
        ),
        (
            "student.pretrained={swin_b: [a]}",
            "student.pretrained.swin_b=['a'] is refused: input should be a valid boolean",
        ),
        ("data.unseen=a", "data.unseen=a is refused; expected a list in brackets, such as data.unseen=[a]"),
    ],
)
def test_a_setting_with_several_types_is_named_as_it_is_typed(override, says):
    with pytest.raises(ConfigError) as caught:
        settings.load("demo", [override])
    assert str(caught.value) == says


@pytest.mark.parametrize(
    "override",
    [
        "data.root=s3://AKIAHUNTER2:hunter2@bucket/x",
        "data.root=s3://AKIAHUNTER2:hun/hunter2@bucket/x",
        "teacher.weights=https://bob:hunter2@host/x.pt",
        "teacher.weights=https://hunter2@host/x.pt",
        "student.pretrained.swin_b=s3://b/x?X-Amz-Signature=hunter2",
        "student.pretrained={swin_b: 's3://b/x?a=b&X-Amz-Credential=hunter2'}",
        "teacher.text_features=https://host/x.npy?sv=1&sig=hunter2",
        'evaluation.sets={voc12: {root: "s3:\\/\\/u:hunter2@b/x"}}',
        "evaluation.figures=[a, 's3://u:hunter2@b/x']",
        "s3://u:hunter2@b/x=1",
        "s3://u:hunter2@b/x",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(override):
    with pytest.raises(ConfigError, match="a user, password or signature, and settings are printed") as caught:
        settings.load("demo", [override])
    assert "hunter2" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "data.root=s3://bucket/a@b",
        "evaluation.figures=['http://host:8080/x@v2.pt']",
        "teacher.weights=s3://host/x.pt?version=3&design=a",
        "evaluation.figures=['2007_000033@a']",
    ],
)
def test_other_addresses_are_settings(override):
    settings.load("demo", [override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.unseen=[zebraa]", "zebraa"),
        ("data.unseen=[]", "unseen"),
        ("data.synonyms.zebraa=[horse]", "data.synonyms names 'zebraa', which the data set does not have"),
        ("data.synonyms.zebra=[grass]", "class names occur twice: grass"),
        ("data.dataset=imagenet", "imagenet"),
        ("student.backbone=resnet", "resnet"),
        ("variants=[]", "variants is empty"),
        ("train.lr_scale.segformer_bo=0.1", "train.lr_scale.segformer_bo is refused: the backbone 'segformer_bo' does"),
        ("student.pretrained.swin_bb=a.pth", "student.pretrained.swin_bb is refused: the backbone 'swin_bb' does not"),
        ("method.generator_heads=7", "method.generator_heads=7 does not divide the 64 features of CLIP's tokens"),
    ],
)
def test_settings_that_fit_no_data_or_network_are_refused_before_work(override, says):
    with pytest.raises(ClipteaError) as caught:
        preflight.check(settings.load("demo", ["variants=[table3]", override]))
    assert says in str(caught.value)


def test_images_for_figures_that_no_image_has_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    with pytest.raises(ConfigError) as caught:
        resolve.start_run("smoke", ['evaluation.figures=["val00003", "train00001", "nope", "val00001.png"]'], "job")
    assert "evaluation.figures names images that do not exist: 'nope', 'val00001.png'" in str(caught.value)
    assert "perhaps val00001" in str(caught.value)


def test_equal_variants_of_different_groups_are_trained_once():
    config = settings.load("demo", ["seeds=2"])
    variants = expand(config)
    listed = [(m.group, m.variant, v.seed) for v in variants for m in v.members]
    named = [(g, v, s) for s in range(2) for g in config.variants for v in variant_groups.variant_group(g)]
    assert sorted(listed) == sorted(named)
    assert len(listed) == len(set(listed))
    configs = [(v.config.model_dump_json(), v.seed) for v in variants]
    assert len(set(configs)) == len(configs) < len(listed)
    assert len({v.label for v in variants}) == len(variants)


def test_initial_weights_are_chosen_by_backbone():
    named = settings.load("voc12", ["student.pretrained.swin_b=a.pth", "student.pretrained.segnext_b=true"])
    chosen = [v.config.student.initial_weights for v in expand(named)]
    assert chosen == [False, "a.pth", True]
    assert settings.load("voc12").student.initial_weights is True


def test_weights_for_some_backbones_do_not_turn_off_those_of_the_others():
    """A preset's `pretrained: true` is replaced by the mapping."""
    given = ["teacher.weights=demo", "data.dataset=demo", "variants=[backbones/segformer_b0, backbones/demo_fpn]"]
    with pytest.raises(
        ConfigError, match=r"names weights for swin_b, and none for segformer_b0; expected student\.pre"
    ):
        preflight.check(settings.load("voc12", [*given, "student.pretrained.swin_b=true"]))
    preflight.check(settings.load("voc12", [*given, "student.pretrained.segformer_b0=true"]))
    preflight.check(settings.load("voc12", [*given, "student.pretrained={swin_b: true, segformer_b0: false}"]))


@pytest.mark.parametrize("seen", [222, 223, 224])
def test_label_maps_have_room_for_seen_classes_and_regions(seen):
    method = settings.load("demo").method
    assert method.clustering.max_regions == 32
    if seen + 32 <= 255:
        preflight._check_regions(method, seen)
        return
    with pytest.raises(ConfigError, match=r"224 seen classes and .*max_regions=32 .* at most 31 regions"):
        preflight._check_regions(method, seen)


LOSSES = [f"method.losses.{name}=false" for name in ("cls_token", "ce", "bce", "generate")]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.betas=[0.9, 1.0]"], "train.betas"),
        (
            ["method.generator=original", "method.detach_centroids=true", *LOSSES[:3]],
            r"^method\.losses\.generate=true alone does not train the student",
        ),
        (["method.detach_centroids=true", *LOSSES[:3]], r"^method\.losses\.generate=true alone does not train"),
        (LOSSES, r"^method\.losses are all false or have no weight, so nothing is trained"),
        (
            [*LOSSES[:2], LOSSES[3], "method.losses.focal_weight=0", "method.losses.dice_weight=0"],
            r"^method\.losses are all false or have no weight, so nothing is trained",
        ),
    ],
)
def test_settings_that_train_nothing_or_diverge_are_refused(overrides, says):
    with pytest.raises(ConfigError, match=says):
        settings.load("demo", overrides)


def test_teacher_weights_that_are_not_here_are_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"teacher\.weights=.* does not exist"):
        preflight.check(settings.load("demo", ["teacher.weights=nowhere/clip.pt"]))
    (tmp_path / "clip.pt").touch()
    for weights in (tmp_path / "clip.pt", "openai", "s3://bucket/clip.pt", "demo"):
        preflight.check(settings.load("demo", [f"teacher.weights={weights}"]))


def test_settings_are_flattened():
    flat = nested.flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}})
    assert flat == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_names_and_a_file_of_text_features_exclude_each_other():
    with pytest.raises(ConfigError, match=r"^data.synonyms and teacher.text_features are both set: expected one"):
        settings.load("demo", ["data.synonyms.cow=[calf]", "teacher.text_features=a.npy"])


def test_groups_that_variants_does_not_list_are_found():
    own = ["variant_groups.used={a: {}, b: {seeds: 2}}", "variant_groups.forgotten={a: {}}"]
    assert variant_groups.unused_groups(settings.load("smoke", ["variants=[used/b]", *own])) == ["forgotten"]
    assert variant_groups.unused_groups(settings.load("smoke", ["variants=[forgotten, used, table3]", *own])) == []


def test_settings_with_dots_in_a_file_are_told_how_to_be_written():
    with pytest.raises(ConfigError, match=r"train\.lr is written with dots; expected train: \{lr: \.\.\.\} in a file"):
        settings.load("my.yaml", text="preset: smoke\ntrain.lr: 0.001\n")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.root=/d/caf\udce9", "the setting data.root is not UTF-8; expected text in UTF-8"),
        ("variants=[caf\udce9.yaml]", "the setting variants is not UTF-8"),
        (1, "cannot read the setting 1; expected text such as train.iterations=200"),
        (None, "cannot read the setting None"),
        ("data.root=" + "x" * 70_000, "the setting data.root has 70010 characters; expected at most 65536"),
    ],
)
def test_what_a_pipeline_cannot_take_is_refused_in_one_line(override, says):
    with pytest.raises(ConfigError, match=says):
        settings.load("smoke", [override])
