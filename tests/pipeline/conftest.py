from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Cliptea


@pytest.fixture
def cliptea(tmp_path: Path) -> Iterator[Cliptea]:
    command = Cliptea(tmp_path)
    yield command
    command.close()
