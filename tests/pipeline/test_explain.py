"""What a run says that ended before any step could say why."""

import shutil
from types import SimpleNamespace

import pytest

from cliptea_pipeline.local import _explain


@pytest.mark.parametrize(("free", "says"), [(0, "is full; free some space, or use"), (1 << 30, "the end of the log")])
def test_a_run_that_could_not_write_its_error_down_looks_at_the_disk(tmp_path, monkeypatch, capsys, free, says):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    workdir = SimpleNamespace(root=tmp_path, log=tmp_path / "a.log")
    _explain(workdir, SimpleNamespace(failures=[], run="r", published={}), debug=False)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "the run ended without an error message" in line
    assert says in line
