"""The text of exceptions, which may do anything when they are looked at."""

import traceback


def message_of(error: BaseException) -> str:
    """The message of an exception, whatever its own `__str__` does."""
    try:
        return str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - its class says enough
        return ""


def traceback_of(error: BaseException) -> str:
    """The traceback, or as much as can be told of an exception that cannot be formatted."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as fault:  # noqa: BLE001 - an exception may do anything when it is looked at
        frames = "".join(traceback.format_tb(error.__traceback__))
        kind, fault_kind = type(error).__qualname__, type(fault).__qualname__
        return f"Traceback:\n{frames}{kind} (telling more of it raised {fault_kind})\n"
