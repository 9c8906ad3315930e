"""Resource names."""

import pytest
from django_tasks_cloud_tasks.core.errors import InvalidNameError
from django_tasks_cloud_tasks.core.names import QueueName, is_queue_id, is_task_id
from hypothesis import given
from hypothesis import strategies as st

parts = st.builds(
    QueueName,
    st.from_regex(r"[A-Za-z0-9:.-]{1,100}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9-]{1,100}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9-]{1,100}", fullmatch=True),
)


@given(parts)
def test_a_name_survives_formatting_and_parsing(name: QueueName) -> None:
    assert QueueName.parse(str(name)) == name


@given(st.text())
def test_text_is_a_queue_name_or_an_error_that_shows_it(text: str) -> None:
    try:
        assert str(QueueName.parse(text)) == text
    except InvalidNameError as error:
        assert "is no" in str(error)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("queues/default", "'queues/default' is no queue name"),
        ("projects/p/locations/l/queues/", "'' is no queue id"),
        ("projects/p/locations/l/queues/a_b", "'a_b' is no queue id"),
        ("projects/p/locations/l/queues/" + "q" * 101, "is no queue id"),
        ("projects/p q/locations/l/queues/q", "'p q' is no project id"),
        ("projects/p/locations/l/queues/q\n", "is no queue id"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(text: str, fault: str) -> None:
    with pytest.raises(InvalidNameError, match="is no") as raised:
        QueueName.parse(text)
    assert fault in str(raised.value)


def test_the_alphabets_of_ids() -> None:
    assert is_task_id("a_b-9" + "x" * 495)
    assert not is_task_id("x" * 501)
    assert not is_task_id("")
    assert not is_task_id("é")
    assert is_queue_id("a-9")
    assert not is_queue_id("a_b")
