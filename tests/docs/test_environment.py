"""docs/environment.md and `cliptea.env` are one, and hold every environment variable of the product."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from docs.pages import ROOT

from cliptea import env, outage
from cliptea.data import shard_cache
from cliptea.errors import ConfigError

PAGE = "docs/environment.md"
KNOWN = [variable.name for section in env.SECTIONS for variable in section.variables]
OURS = {name: variable.name for name, variable in vars(env).items() if isinstance(variable, env.Variable)}
NAME = re.compile(r"CLIPTEA_[A-Z0-9_]*[A-Z0-9]")
LITERAL = re.compile(r"""["'](CLIPTEA_[A-Z0-9_]+)["']""")
READ = re.compile(r"""environ(?:\.get\(|\[)["']([A-Z_0-9]+)["']|["']([A-Z_0-9]+)["'] (?:not )?in os\.environ""")


def product(*folders: str, pattern: str = "*") -> dict[str, str]:
    """The texts of the product's files, but for `cliptea.env` itself."""
    files = [file for folder in folders for file in (ROOT / folder).rglob(pattern) if file.is_file()]
    own = Path(env.__file__)
    return {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8", errors="ignore")
        for file in files
        if file != own and "__pycache__" not in file.parts
    }


def test_the_page_is_current():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == env.page(), f"{PAGE} is stale: run `make environment`"


def test_each_variable_is_in_one_section():
    assert [name for name, count in Counter(KNOWN).items() if count > 1] == []
    assert set(OURS.values()) <= set(KNOWN)


def test_the_product_names_no_other_variable():
    texts = product("components", "pipeline", "docker", "k8s")
    unknown = {(path, name) for path, text in texts.items() for name in NAME.findall(text) if name not in KNOWN}
    assert not unknown, "add it to components/cliptea/env.py"


def test_every_variable_that_is_read_is_listed():
    texts = product("components", "pipeline", pattern="*.py")
    read = {(path, one or other) for path, text in texts.items() for one, other in READ.findall(text)}
    assert {name for _, name in read} >= {"MLFLOW_TRACKING_URI", "RANK", "KUBERNETES_SERVICE_HOST"}  # it finds them
    assert not {(path, name) for path, name in read if name not in KNOWN}, "add it to components/cliptea/env.py"


def test_python_code_takes_the_names_from_one_module():
    texts = product("components", "pipeline", pattern="*.py")
    found = {(path, name) for path, text in texts.items() for name in LITERAL.findall(text)}
    assert not found, "use the constant of cliptea.env"


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_used(name):
    texts = product("components", "pipeline", pattern="*.py").values()
    assert any(re.search(rf"\benv\.{name}\b", text) for text in texts), f"nobody reads or sets {OURS[name]}"


def test_the_defaults_of_the_page_are_those_of_the_code():
    assert float(env.CACHE_GIB.default) == shard_cache.DEFAULT_GIB
    assert env.PATIENCE.default == f"{outage.STEP_SECONDS:.0f} in a step, {outage.COMMAND_SECONDS:.0f} in a command"


@pytest.mark.parametrize(("given", "number"), [("", None), ("0", 0.0), ("2.5", 2.5)])
def test_a_number(monkeypatch, given, number):
    monkeypatch.setenv("CLIPTEA_PATIENCE", given)
    assert env.PATIENCE.number() == number


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "all"])
def test_a_count_that_is_none_is_refused_in_one_line(monkeypatch, given):
    monkeypatch.delenv("CLIPTEA_THREADS", raising=False)
    assert env.THREADS.count() is None
    monkeypatch.setenv("CLIPTEA_THREADS", "3")
    assert env.THREADS.count() == 3
    monkeypatch.setenv("CLIPTEA_THREADS", given)
    with pytest.raises(ConfigError, match=f"^CLIPTEA_THREADS is '{given}'; expected a whole number") as error:
        env.THREADS.count()
    assert "\n" not in str(error.value)


def test_a_local_run_is_known_by_its_events(monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    assert not env.in_local_run()
    monkeypatch.setenv("CLIPTEA_EVENTS", "/dev/null")
    assert env.in_local_run()
