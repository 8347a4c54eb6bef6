"""What can go wrong with a store: an obstore exception in, one of a few errors with a one-line message out.

    StoreError
    +-- InvalidLocation      the address or key itself is not acceptable
    +-- NotFound             no such object, folder or bucket
    +-- AccessDenied         missing, wrong or insufficient credentials
    +-- Unreachable          no connection, or no answer in time
    |   +-- Throttled        the store asks for fewer requests
    +-- Changed              the object is not the one that was asked for (its ETag differs)
    +-- ConditionIgnored     the store does not honour put-if-absent

Messages name the object or bucket and the store's error code, never the reply, which may quote credentials.
"""

from __future__ import annotations

import re

from obstore import exceptions as raised


class StoreError(Exception):
    """A store could not do what was asked. The message is one line for people."""


class InvalidLocation(StoreError):
    """The address of a store, or the key of an object, is not acceptable."""


class NotFound(StoreError):
    """The object, folder or bucket does not exist."""


class AccessDenied(StoreError):
    """The store refused the credentials, or there are none."""


class Unreachable(StoreError):
    """No connection, or no answer within the retries."""


class Throttled(Unreachable):
    """The store kept asking for fewer requests."""


class Changed(StoreError):
    """The object is there but is not the one that was asked for."""


class ConditionIgnored(StoreError):
    """The store overwrites where it was told to write only if absent: records would not be safe on it."""


FAULTS = (raised.BaseError, OSError, ValueError)

_STATUS_CODE = re.compile(r"status code: (\d{3})")
_ERROR_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_INVALID_PATH = re.compile(r'[Pp]ath "(.+?)"', re.DOTALL)
_CREDENTIAL_SOURCES = re.compile(
    r"169\.254\.|InstanceCredential|AssumeRoleWithWebIdentity|CredentialProvider"
)
NO_CREDENTIALS = "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_DENIED = (raised.PermissionDeniedError, raised.UnauthenticatedError, PermissionError)
_THROTTLES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"}
)


def translate(fault: Exception, what: str) -> StoreError:
    """The error to raise in place of `fault`; `what` names the object, folder or bucket."""
    text = str(fault)
    status = int(found.group(1)) if (found := _STATUS_CODE.search(text)) else None
    code = found.group(1) if (found := _ERROR_CODE.search(text)) else None
    if _CREDENTIAL_SOURCES.search(text):
        return AccessDenied(f"{what}: {NO_CREDENTIALS}")
    if code == "NoSuchBucket":
        return NotFound(f"{what}: the bucket does not exist")
    if isinstance(fault, raised.InvalidPathError):
        name = f" ({ascii(found.group(1)[:80])})" if (found := _INVALID_PATH.search(text)) else ""
        return InvalidLocation(
            f"{what}: an object's name{name} cannot be addressed: it has an empty, . or .. part, "
            "control characters, or is not Unicode"
        )
    if isinstance(fault, raised.PreconditionError) or status == 412:
        return Changed(f"{what}: the object has changed since it was listed")
    if isinstance(fault, FileNotFoundError) or status == 404:
        return NotFound(f"{what}: does not exist")
    if isinstance(fault, _DENIED) or status in (401, 403):
        return AccessDenied(f"{what}: access denied" + (f" ({code})" if code else ""))
    if status in (429, 503) or code in _THROTTLES:
        return Throttled(f"{what}: the store asks for fewer requests (HTTP {status}), given up after retries")
    if status is not None:
        return Unreachable(f"{what}: the store answered HTTP {status}" + (f" ({code})" if code else ""))
    if isinstance(fault, ValueError):
        return InvalidLocation(f"{what}: not an acceptable key or address")
    if "HTTP error" in text or "error sending request" in text or "retries" in text:
        return Unreachable(f"{what}: no answer from the store, given up after retries")
    return StoreError(f"{what}: the store failed ({type(fault).__name__})")
