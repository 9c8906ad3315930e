"""Converts the errors of Google's client libraries for the administration of queues and jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import google.auth.exceptions
from google.api_core.exceptions import GoogleAPICallError, PermissionDenied, RetryError

from ..core.errors import AdministrationError


@contextmanager
def converted_errors(service: str, emulator_host: str | None, *, grant: str) -> Iterator[None]:
    """A context for one call.

    Args:
        service: the name of the service, such as `Cloud Tasks`.
        emulator_host: HOST:PORT of the emulator that is called; None for the service.
        grant: the advice if the account does not have the permission: the roles to grant.

    Raises:
        AdministrationError: the call failed.
    """
    try:
        yield
    except google.auth.exceptions.GoogleAuthError as error:
        raise AdministrationError(
            "Google Cloud credentials were not found or not accepted. Run 'gcloud auth "
            f"application-default login'. The error was: {error}"
        ) from error
    except PermissionDenied as error:
        raise AdministrationError(
            f"The account may not do this. {grant} The error was: {error.message}", forbidden=True
        ) from error
    except (GoogleAPICallError, RetryError) as error:
        where, advice = service, ""
        if emulator_host:
            where = f"the emulator at {emulator_host}"
            advice = " If it does not run, start it with 'python manage.py cloudtasks_emulator'."
        raise AdministrationError(
            f"The call to {where} failed: {error.message}.{advice}"
        ) from error
