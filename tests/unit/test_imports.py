"""No circle of modules, on the graph that import-linter uses, and no two files of one name.

Imports inside functions and for types are counted.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp
import pytest

PACKAGES = ("cliptea", "cliptea_pipeline")
ROOT = Path(__file__).parents[2]
# A step, and the package with the code that it calls.
SHARED = {"teacher"}


def imported(*packages: str) -> dict[str, set[str]]:
    """The other modules that each module imports, wherever in it the import stands.

    A step imports itself: kfp takes only the source of its component.
    """
    graph = grimp.build_graph(*packages, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}


def circles(imports: Mapping[str, set[str]]) -> Iterator[frozenset[str]]:
    """The largest sets of modules each of which reaches all others."""
    reached = {module: _reached(module, imports) for module in imports}
    for module in imports:
        circle = frozenset(other for other in reached[module] if module in reached[other])
        if circle and module == min(circle):
            yield circle


def _reached(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def test_there_is_no_circle_of_modules():
    found = list(circles(imported(*PACKAGES)))
    assert not found, "\n".join(" <-> ".join(sorted(circle)) for circle in found)


def test_no_two_modules_share_a_name():
    found = defaultdict(list)
    for folder in ("components", "pipeline"):
        for file in (ROOT / folder).rglob("*.py"):
            found[file.parent.name if file.stem == "__init__" else file.stem].append(file)
    shared = {name: files for name, files in found.items() if len(files) > 1 and name != "__main__"}
    assert not shared.keys() - SHARED, shared


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of modules with these contents, and gives its circles."""

    def circles_of(**modules: str) -> set[frozenset[str]]:
        folder = tmp_path / "circled"
        folder.mkdir()
        (folder / "__init__.py").touch()
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        return set(circles(imported("circled")))

    monkeypatch.syspath_prepend(tmp_path)
    return circles_of


@pytest.mark.parametrize(
    "back",
    [
        "from circled import a",
        "def f():\n    from circled.a import x\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from circled.a import X\n",
    ],
)
def test_an_import_back_is_a_circle_wherever_it_stands(package, back):
    found = package(a="from circled import b", b="import circled.c", c=back, d="from circled import a")
    assert found == {frozenset({"circled.a", "circled.b", "circled.c"})}


def test_one_way_is_no_circle(package):
    assert package(a="from circled import b, c", b="from circled import c", c="x = 1") == set()
