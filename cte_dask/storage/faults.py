"""Turns errors of an object store into one line that names the remedy and shows no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CutShortError", "StorageError", "explained", "explaining"]


class StorageError(OSError):
    """An object store cannot be used as asked: credentials, bucket, region or the network."""


class CutShortError(StorageError):
    """An answer broke off. The library repeats requests, but no answer that it began to read."""


_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_TOKENS = {
    "s3": "AWS_SESSION_TOKEN",
    "gs": "GOOGLE_BEARER_TOKEN",
    "az": "AZURE_STORAGE_SAS_TOKEN",
}
_WRONG_KEY = "the key is wrong: check {keys} in the environment"
_EXPIRED = "the token has expired or is not valid: get a new one ({token} in the environment)"
_NO_BUCKET = "there is no such bucket or container"
_REGION = "the bucket is in another region{region}: set AWS_REGION"
_DENIED = "access denied: these credentials may not do this (a public bucket: --anonymous)"
_NO_CREDENTIALS = "no credentials: set {keys} in the environment (a public bucket: --anonymous)"
_PRIVATE = "it is not public: leave out --anonymous and set {keys} in the environment"

REMEDIES = {
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "AuthenticationFailed": _WRONG_KEY,
    "InvalidAuthenticationInfo": _WRONG_KEY,
    "AuthorizationFailure": _WRONG_KEY,
    "ExpiredToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "NoSuchBucket": _NO_BUCKET,
    "ContainerNotFound": _NO_BUCKET,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "AccessDenied": _DENIED,
    "PublicAccessNotPermitted": _DENIED,
}
"""Remedy for each error code of S3, Google and Azure.

The codes: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
learn.microsoft.com/rest/api/storageservices/blob-service-error-codes,
cloud.google.com/storage/docs/xml-api/reference-status.
"""

_PHRASES = (
    # Azure has one code for a wrong key and a signature out of date
    (re.compile(r"specified time frame|Signature not valid|expired", re.IGNORECASE), _EXPIRED),
    (re.compile(r"redirect without LOCATION", re.IGNORECASE), _REGION),
    (re.compile(r"401 Unauthorized"), _EXPIRED),
    # a key file that is not there, is no key, or was revoked (the token service's own words)
    (
        re.compile(
            r"service account file|decoding .*credentials|pem file|private key|invalid_grant|"
            r"Invalid JWT",
            re.IGNORECASE,
        ),
        _WRONG_KEY,
    ),
    (
        re.compile(r"instance metadata|169\.254\.169\.254|metadata\.google", re.IGNORECASE),
        _NO_CREDENTIALS,
    ),
)
_CUT = re.compile(r"body error|decoding response body|before message completed")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REGION_NAMED = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'")
_QUERY = re.compile(r"\?[^\s,)]*")
_TAGS = re.compile(r"</?\w+>")
_BODY = re.compile(r"<\?xml|<\w+>")
_MESSAGE = re.compile(r"<Message>([^<]*)")


def explained(error: BaseException, url: str, *, signed: bool = True) -> OSError:
    """Return an error of the object store library as one of ours, in one line.

    Parameters
    ----------
    error
        The library's error, whose text holds signed URLs and debugging output.
    url
        URL of the bucket or object, as the user knows it.
    signed
        Whether the request was signed; those to a public bucket are not.

    Returns
    -------
    OSError
        FileNotFoundError where just the object is missing, else `StorageError`.
    """
    # what follows repeats requests, with their signatures
    text = str(error).partition("\n\nDebug source")[0]
    code = match[1] if (match := _CODE.search(text)) else ""
    remedy = REMEDIES.get(code, "")
    if isinstance(error, FileNotFoundError) and remedy != _NO_BUCKET:
        return FileNotFoundError(f"{url} does not exist")
    for pattern, remedy_of_phrase in _PHRASES:
        # this code says enough, and its body repeats the request, which may hold such a phrase
        if pattern.search(text) and code != "SignatureDoesNotMatch":
            remedy = remedy_of_phrase
    if not remedy and _CUT.search(text):
        return CutShortError(f"{url}: {_plain(text)}")
    if remedy == _WRONG_KEY and url.startswith("a") and "AZURE_STORAGE_SAS_TOKEN" in os.environ:
        remedy = _EXPIRED  # there is no key: the signature stands for it
    if not signed and remedy in _REFUSALS:
        remedy = _PRIVATE
    return StorageError(f"{url}: {_filled(remedy, text, url) or _plain(text)}")


def _filled(remedy: str, text: str, url: str) -> str:
    provider = {"s": "s3", "g": "gs"}.get(url[:1], "az")
    name = match[1] or match[2] if (match := _REGION_NAMED.search(text)) else ""
    region = f" ({name})" if name else ""
    return remedy.format(keys=_KEYS[provider], token=_TOKENS[provider], region=region)


_REFUSALS = (_WRONG_KEY, _EXPIRED, _DENIED, _NO_CREDENTIALS)


def _plain(text: str) -> str:
    """Return the text of an error whose code is unknown: its head, and the body's code and message.

    The rest of the body may repeat the request with its signature.
    """
    head = _BODY.split(text, maxsplit=1)[0]
    body = text[len(head) :]
    details = [m[1] for pattern in (_CODE, _MESSAGE) if (m := pattern.search(body))]
    if body and not details:
        details = [_TAGS.sub(" ", body)]
    return " ".join(f"{_QUERY.sub('', head)} {': '.join(details)}".split())[:300]


@contextmanager
def explaining(url: str, *, signed: bool = True) -> Iterator[None]:
    """Replace the errors that the object store library raises inside by `explained` ones."""
    from obstore.exceptions import BaseError

    try:
        yield
    except StorageError:
        raise
    except (BaseError, OSError) as error:
        raise explained(error, url, signed=signed) from None
