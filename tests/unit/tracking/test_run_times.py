"""How long runs were at work, from tags that anybody may change in MLflow."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from cliptea.tracking.run_times import Tag, own_end, real_end, silence_of

START = 1_700_000_000  # seconds since 1970


def run(status="KILLED", end=None, **tags):
    info = SimpleNamespace(start_time=1000 * START, end_time=end and 1000 * end, status=status)
    return SimpleNamespace(info=info, data=SimpleNamespace(tags={getattr(Tag, name): tags[name] for name in tags}))


def at(seconds):
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


def test_the_time_between_two_starts_does_not_count():
    resumed = run(WORKED="60.0", BEGAN=at(5000), HEARTBEAT=at(5100))
    assert own_end(resumed) == 1000 * (START + 60 + 100)
    assert real_end(resumed) == START + 5100
    assert real_end(run(end=START + 160, WORKED="60.0", BEGAN=at(5000))) == START + 5100


@pytest.mark.parametrize("text", ["", "soon", "2026-99-01", "nan", "-inf", "1e999", "-1", "\u0663x"])
def test_a_tag_that_cannot_be_read_counts_as_missing(text):
    changed, fresh = run(WORKED=text, BEGAN=text, HEARTBEAT=text), run()
    assert own_end(changed) == own_end(fresh) == 1000 * START
    assert real_end(changed) == real_end(fresh) == START
    assert silence_of(changed) == pytest.approx(silence_of(fresh), abs=5)
