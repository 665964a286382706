"""What a page names: its code, commands, paths, settings, variables and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import typer

from cliptea_pipeline.cli import app

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("benchmarks/README.md", "components/cliptea/data/SHARDS.md", "tests/e2e/README.md")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / name for name in OTHERS)])

FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)*^ {4}.*$", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s)#.*$", re.MULTILINE)


class Page(NamedTuple):
    """A page's text, apart: its prose, its code blocks, and the code inside of its sentences."""

    prose: str
    blocks: list[str]
    spans: list[str]


def read(path: Path) -> Page:
    """The parts of a page."""
    text = path.read_text(encoding="utf-8")
    blocks = [found[0] for found in FENCE.finditer(text)]
    text = FENCE.sub("", text)
    blocks += [found[0] for found in INDENTED.finditer(text)]
    prose = INDENTED.sub("", text)
    return Page(prose, blocks, [" ".join(span.split()) for span in SPAN.findall(prose)])


def lines(page: Page) -> Iterator[str]:
    """The command lines of a page's code blocks, without comments and prompts."""
    for block in page.blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield COMMENT.sub("", line).strip().removeprefix("$ ")


def commands(page: Page) -> Iterator[tuple[list[str], bool]]:
    """Every `cliptea ...` as its arguments, and whether it is whole: one inside of a sentence may be shortened."""
    for texts, whole in ((lines(page), True), (page.spans, False)):
        for text in texts:
            if text.startswith("cliptea "):
                given = shlex.split(text)
                yield [word for before, word in pairwise(given) if word != "..." or before.startswith("-")], whole


def targets(page: Page) -> set[str]:
    """Every target of make."""
    texts = [*lines(page), *page.spans]
    return {found for text in texts for found in re.findall(r"(?:^|[;&] *|\S=\S+ )make ([a-z][a-z-]*)", text)}


def words(page: Page) -> set[str]:
    """The words of all code: what may be a path, a setting or a variable."""
    texts = [COMMENT.sub("", block) for block in page.blocks] + page.spans
    return {word.strip("\"'[]{}(),;:|") for text in texts for word in text.split()}


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def parse(arguments: list[str], whole: bool) -> Any:
    """Parse a command line by the application itself, without running it; returns the command's parameters."""
    group: Any = typer.main.get_command(app)
    with group.make_context("cliptea", list(arguments), resilient_parsing=arguments[0].startswith("-")) as context:
        if arguments[0].startswith("-"):
            known = [option for parameter in group.get_params(context) for option in parameter.opts]
            assert arguments[0] in known, arguments
            return {}
        name, command, rest = group.resolve_command(context, list(arguments))
        assert command is not None, f"there is no command {arguments[0]}"
        try:
            with command.make_context(name, rest, parent=context) as inner:
                return inner.params
        except Exception as error:
            if not whole and type(error).__name__ == "MissingParameter":
                return {}
            raise AssertionError(f"cliptea {' '.join(arguments)}: {error}") from error
