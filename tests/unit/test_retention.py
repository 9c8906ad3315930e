"""How long records are kept."""

from datetime import timedelta

import pytest
from django_tasks_cloud_tasks.core.retention import age


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("45s", timedelta(seconds=45)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(days=14)),
        ("0d", timedelta()),
    ],
)
def test_an_age_is_parsed_with_its_unit(text: str, meant: timedelta) -> None:
    assert age(text) == meant


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1.5d", "30 d", "30days", "٣d", "9999999d", "99999w"]
)
def test_an_invalid_age_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 30d"):
        age(text)
