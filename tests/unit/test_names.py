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
def test_a_name_is_unchanged_after_formatting_and_parsing(name: QueueName) -> None:
    assert QueueName.parse(str(name)) == name


@given(st.text())
def test_any_text_is_parsed_as_a_queue_name_or_refused(text: str) -> None:
    try:
        assert str(QueueName.parse(text)) == text
    except InvalidNameError as error:
        assert "is not a " in str(error)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("queues/default", "'queues/default' is not a queue name"),
        ("projects/p/locations/l/queues/", "'' is not a queue id"),
        ("projects/p/locations/l/queues/a_b", "'a_b' is not a queue id"),
        ("projects/p/locations/l/queues/" + "q" * 101, "is not a queue id"),
        ("projects/p q/locations/l/queues/q", "'p q' is not a project id"),
        ("projects/p/locations/l/queues/q\n", "is not a queue id"),
    ],
)
def test_the_error_for_an_invalid_name_says_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(InvalidNameError, match="is not a ") as raised:
        QueueName.parse(text)
    assert fault in str(raised.value)


def test_task_and_queue_ids_have_their_own_alphabets() -> None:
    assert is_task_id("a_b-9" + "x" * 495)
    assert not is_task_id("x" * 501)
    assert not is_task_id("")
    assert not is_task_id("é")
    assert is_queue_id("a-9")
    assert not is_queue_id("a_b")
