import json
import subprocess
import sys
import time
from typing import get_args, get_type_hints

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cliptea import __version__
from cliptea.config import Config
from cliptea_pipeline import compile as compiling
from cliptea_pipeline.cli import app
from cliptea_pipeline.options import whole_number


def call(*arguments):
    return CliRunner().invoke(app, arguments)


def test_help_names_every_command():
    answer = call("--help")
    assert answer.exit_code == 0
    for command in (
        "run",
        "compile",
        "config",
        "predict",
        "export",
        "rollback",
        "submit",
        "cancel",
        "schedule",
        "doctor",
    ):
        assert command in answer.output


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from cliptea_pipeline.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: print([n for n in ('kfp', 'torch', 'numpy', 'pydantic') if n in sys.modules])"
    )
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - start < 5  # 0.3 s on an idle machine


def test_version():
    assert call("--version").output == f"cliptea {__version__}\n"


def test_config_prints_settings_that_can_be_read_back():
    answer = call("config", "--preset", "demo", "--set", "train.iterations=7", "--set", "data.unseen=[cat, dog]")
    settings = Config.model_validate(yaml.safe_load(answer.output))
    assert settings.train.iterations == 7
    assert settings.data.unseen == ["cat", "dog"]


@pytest.mark.parametrize("command", ["run", "config"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train.iteration=7"], "train.iterations"),
        (["--set", "train.iterations=many"], "train.iterations"),
        (["--set", "train.iterations"], "key=value"),
        (["--preset", "dmeo"], "demo"),
        (["--set", "minio.secret_key=1"], "environment"),
    ],
)
def test_a_bad_setting_gives_one_line_and_code_2(command, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(command, *arguments)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: ")
    assert words in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--preset", "voc12"], 2, "data.root is not set"),
        (["--set", "teacher.weights=openai", "--set", "teacher.crop=65"], 2, "teacher.crop=65 is not a multiple of"),
        (["--config", "none.yaml"], 2, "none.yaml: it is missing"),
        (["--set", "teacher.weights=none.pt"], 2, "teacher.weights=none.pt does not exist"),
        (["--set", "train.init_from=none/model"], 2, "this folder does not exist"),
        (["--preset", "voc12", "--set", "data.root=none"], 1, "data.root=none is not a folder (missing)"),
        (["--preset", "voc12", "--set", "data.root=~nobody-here/x"], 1, "data.root=~nobody-here/x is not a folder"),
        (["--set", "train.init_from=~nobody-here/x"], 2, "this folder does not exist"),
        (["--set", "teacher.weights=~nobody-here/x.pt"], 2, "teacher.weights=~nobody-here/x.pt does not exist"),
        (["--set", "teacher.model=RN50", "--set", "teacher.weights=openai"], 1, "RN50 does not provide"),
        (["--workdir", "foreign"], 1, "foreign"),
    ],
)
def test_a_wrong_value_has_code_2_and_what_is_unsuitable_has_code_1(arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").touch()
    given = [] if "teacher.weights" in " ".join(arguments) else ["--set", "teacher.weights=demo"]
    answer = call("run", *arguments, *given)
    assert (answer.exit_code, words in answer.stderr, answer.stderr.count("\n")) == (code, True, 1), answer.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["foreign", "thesis.tex"]


def test_a_setting_that_fits_no_registry_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call("run", "--set", "student.backbone=resnet_of_1999")
    assert answer.exit_code == 2
    assert "resnet_of_1999" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_without_secrets_and_ends_with_the_usual_code(monkeypatch):
    answer = call("config", "--preset", "dmeo", "--debug")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("Traceback (most recent call last):\n")
    assert answer.stderr.splitlines()[-1].startswith("error: the preset 'dmeo' does not exist")

    def broken(*arguments):
        raise RuntimeError("cannot reach https://ci:S3cretPass@host\x1b[2J")

    monkeypatch.setattr(compiling, "compile_pipeline", broken)
    for log_format in ("text", "json"):
        monkeypatch.setenv("CLIPTEA_LOG_FORMAT", log_format)
        answer = call("compile", "--debug")
        assert answer.exit_code == 1
        assert "Traceback" in answer.stderr
        assert "https://***@host" in answer.stderr
        assert "S3cretPass" not in answer.stderr
        assert "\x1b" not in answer.stderr


def test_compile_writes_and_checks(tmp_path):
    file = tmp_path / "p.yaml"
    assert call("compile", "--check", "-o", str(file)).exit_code == 1
    assert call("compile", "-o", str(file)).exit_code == 0
    assert call("compile", "--check", "-o", str(file)).exit_code == 0
    answer = call("compile", "--check", "--image", "other:1", "-o", str(file))
    assert answer.exit_code == 1
    assert "stale" in answer.stderr
    assert "image: other:1" not in file.read_text()


def test_compile_refuses_an_image_that_moves(tmp_path):
    answer = call("compile", "--image", "cliptea:latest", "-o", str(tmp_path / "p.yaml"))
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: the image 'cliptea:latest' has the tag latest, which moves; expected")
    assert not (tmp_path / "p.yaml").exists()


def test_compile_into_an_impossible_file(tmp_path):
    answer = call("compile", "-o", "/proc/none/p.yaml")
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: cannot use /proc/none: ")


def test_an_unexpected_error_is_one_line_too(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a\nb")

    monkeypatch.setattr(compiling, "compile_pipeline", broken)
    answer = call("compile")
    assert answer.exit_code == 1
    assert answer.stderr == "error: RuntimeError: a b; add --debug to see the traceback\n"


def test_plan_counts_the_students_and_the_runs_that_they_take_on_a_cluster():
    few, many = (call("plan", "--preset", "smoke", "--set", f"seeds={seeds}") for seeds in (25, 60))
    assert (few.exit_code, "100 (variants times seeds) " in few.stdout) == (0, True)
    told = " ".join(many.stdout.split())
    assert "240 (variants times seeds); on a cluster in 3 runs with one comparison (at most 80 in each, " in told
    assert "which has room for 100): cliptea submit --split 3" in told
    assert (many.exit_code, many.stderr) == (0, "")


def test_json_of_plan_is_one_document_also_if_it_takes_several_runs():
    few, many = (call("plan", "--preset", "smoke", "--set", f"seeds={seeds}", "--json") for seeds in (1, 60))
    made = json.loads(few.stdout)
    assert (few.exit_code, made["trainings"], made["steps"]["train"], made["room"], made["runs"]) == (0, 4, 4, 100, 1)
    assert {student["backbone"] for student in made["students"]} == {"demo_fpn", "segformer_b0"}
    assert made["gpu_hours"] is None  # nothing was measured
    assert "trainings" in few.stderr  # what is shown without --json
    planned = json.loads(many.stdout)
    assert (many.exit_code, planned["trainings"], planned["runs"]) == (0, 240, 3)


def test_completion_can_be_installed():
    assert "--install-completion" in call("--help").stdout


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", ".", "--model", "m", "--batch-size"),
        ("predict", ".", "--model", "m", "--workers"),
        ("data", "check", "--workers"),
        ("submit", "--split"),
        ("ui", "--port"),
    ],
)
def test_a_number_that_an_option_cannot_take_is_one_line(arguments, text):
    answer = call(*arguments, text)
    assert answer.exit_code == 2
    told = f"cannot use {arguments[-1]} {text}".rstrip()
    assert answer.stderr.startswith(f"error: {told}; expected a whole number ")
    assert answer.stderr.count("\n") == 1


def test_numbers_have_the_bounds_that_the_message_names():
    keep, workers = whole_number("--keep", 0), whole_number("--workers", 1, 1024)
    assert (keep("0"), keep("12"), workers("1024")) == (0, 12, 1024)
    for parse, text in ((keep, "-1"), (keep, "9" * 5000), (workers, "0"), (workers, "1025")):
        with pytest.raises(typer.Exit):
            parse(text)


def callbacks(group):
    """The functions of all commands of a Typer application."""
    yield from (one.callback for one in group.registered_commands)
    for below in group.registered_groups:
        yield from callbacks(below.typer_instance)


def test_every_number_is_checked_in_the_same_way():
    found = []
    for function in callbacks(app):
        for name, hint in get_type_hints(function, include_extras=True).items():
            kinds = {*get_args(get_args(hint)[0]), get_args(hint)[0]} if hasattr(hint, "__metadata__") else {hint}
            if {int, float} & kinds:
                found.append((function.__name__, name, hint.__metadata__[0].parser))
    assert len(found) >= 5
    assert all(parser.__qualname__.startswith(whole_number.__name__) for _, _, parser in found), found
