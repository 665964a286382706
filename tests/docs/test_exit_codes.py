"""The page lists exactly the exit codes that the code has."""

import re
from pathlib import Path

from cliptea.exit_codes import ExitCode

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"
LITERAL = re.compile(r"(?:typer\.Exit|SystemExit|sys\.exit|os\._exit)\(\s*[1-9]")


def test_the_table_is_complete():
    section = PAGE.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.M)] == sorted(ExitCode)


def test_no_code_is_written_as_a_number():
    root = Path(__file__).parents[2]
    files = [*(root / "components").rglob("*.py"), *(root / "pipeline").rglob("*.py")]
    assert len(files) > 150
    assert [str(path) for path in files if LITERAL.search(path.read_text())] == []
