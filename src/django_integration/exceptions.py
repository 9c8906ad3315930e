"""Texts of exceptions. Formatting an exception can raise, because it calls the exception's code."""

import traceback


def message_of(error: BaseException) -> str:
    """Return the message of an exception; an empty text if its `__str__` raises."""
    try:
        return str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - callers can use the class instead
        return ""


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an exception; only the frames and the class if formatting raises."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as fault:  # noqa: BLE001 - `__str__` of an exception can raise anything
        frames = "".join(traceback.format_tb(error.__traceback__))
        kind, fault_kind = type(error).__qualname__, type(fault).__qualname__
        return f"Traceback:\n{frames}{kind} (formatting this exception raised {fault_kind})\n"
