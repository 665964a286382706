"""YAML and JSON of others: what was typed is what is read, and hostile text is refused at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cliptea.errors import ConfigError
from cliptea.parse import parse_json, parse_yaml, read_text

BOMB = "[&a [x,x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"&{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_scalars_are_those_of_yaml_1_2():
    text = "{a: 010, b: 2:30, c: no, d: on, e: 2024-01-01, f: 1_000, g: 0x10, h: 1e-3, i: -7, j: 1.50, k: ~, l: true}"
    assert parse_yaml(text, "x") == {
        "a": "010", "b": "2:30", "c": "no", "d": "on", "e": "2024-01-01", "f": "1_000", "g": "0x10",
        "h": 0.001, "i": -7, "j": 1.5, "k": None, "l": True,
    }  # fmt: skip
    texts = parse_yaml("[010, no, ~, 1.50, 'a, b', null]", "x", typed=False)
    assert texts == ["010", "no", "~", "1.50", "a, b", "null"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{BOMB}]", "more than 50000 values"),
        ("&a [*a]", "*a does not follow a complete &a"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 100_000, "nested too deeply"),
        ("- " * 100_000, "nested too deeply"),
        ("[" + "a," * 200_000 + "]", "more than 50000 values"),
        ("x" * 2_000_000, "larger than 1024 KiB"),
        ("!!python/object/apply:os.system [ls]", "tags"),
        ("[!!int '010']", "tags"),
        ("a: 1\nb: 2\na: 3", "line 3: the key a appears twice"),
        ("? [a]\n: b", "a key is a list"),
        ("[a", "cannot read the text: "),
        ("a: 1\n---\nb: 2", "another document"),
    ],
    ids=range(13),
)
def test_hostile_yaml_is_one_line(text, says):
    for typed in (True, False):
        with pytest.raises(ConfigError) as caught:
            parse_yaml(text, "the text", typed=typed)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_aliases_and_merged_keys_are_read_within_the_limits():
    assert parse_yaml("{a: &x {b: 1}, c: {<<: *x, d: 2}, e: *x}", "x") == {
        "a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": {"b": 1},
    }  # fmt: skip
    chain = "\n".join(f"k{number}: &k{number} [*k{number - 1}]" for number in range(1, 60))
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml(f"k0: &k0 1\n{chain}", "x")


def test_a_bomb_costs_less_than_a_second_and_100_mib():
    code = """
import resource, sys, time
from cliptea.errors import ConfigError
from cliptea.parse import parse_json, parse_yaml
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for read, text in ((parse_yaml, sys.argv[1]), (parse_yaml, "[" * 1_000_000), (parse_json, b"[" * 1_000_000)):
    try:
        read(text, "x")
        sys.exit("it was read")
    except ConfigError:
        pass
assert time.process_time() - start < 1
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
"""
    ended = subprocess.run([sys.executable, "-c", code, f"{BOMB}]"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        (b"[NaN]", "NaN is not finite"),
        (b"[-Infinity]", "-Infinity is not finite"),
        (b"[1e999]", "1e999 is not finite"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 10_000, "digits"),
        (b" " * 2_000_000, "larger than 1024 KiB"),
        (b"\xff", "utf-8"),
        (b"{", "cannot read the file: "),
        (b"", "cannot read the file: "),
    ],
    ids=range(11),
)
def test_hostile_json_is_one_line(data, says):
    with pytest.raises(ConfigError) as caught:
        parse_json(data, "the file")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_may_begin_with_a_byte_order_mark():
    value = {"a": [1, 2.5, None, True, "x"]}
    assert parse_json(json.dumps(value).encode("utf-8-sig"), "x") == value


def test_what_is_not_a_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    for name, says in (
        ("pipe", "is a named pipe"), ("zero", "is a device"), ("loop", "is a circular link"),
        ("large", "is larger than"), ("absent", "is missing"), (".", "is a folder"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            read_text(tmp_path / name, "the file")


def test_a_named_pipe_without_a_writer_is_not_opened_wherever_it_is(tmp_path):
    """Pipes of a shell are read, such as /dev/stdin and /dev/fd/63."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev") / ".." / tmp_path.relative_to("/") / "pipe", tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="is a named pipe"):
            read_text(path, "the file")
    reading, writing = os.pipe()
    os.write(writing, b"text")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}"), "the file") == b"text"
    os.close(reading)
