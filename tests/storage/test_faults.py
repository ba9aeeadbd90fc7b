"""What an object store refuses is told in one line, and its signed requests are not repeated."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from obstore.exceptions import GenericError

from cte_dask.storage import is_cloud, register
from cte_dask.storage.buckets import bucket_url, open_bucket
from cte_dask.storage.faults import StorageError, explained, explaining
from cte_dask.storage.objects import zarr_store

SIGNED = "https://a.blob.core.windows.net/c/x?sv=2021&sig=PRIVATESIGNATURE%3D"


def xml(code: str, message: str = "Told.", more: str = "") -> str:
    return f"403 Forbidden: <Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


@pytest.mark.parametrize(
    ("url", "text", "remedy"),
    [
        ("s3://b", xml("SignatureDoesNotMatch"), "the key is wrong: check AWS_ACCESS_KEY_ID"),
        ("s3://b", xml("ExpiredToken"), "AWS_SESSION_TOKEN in the environment"),
        ("s3://b", xml("NoSuchBucket"), "there is no such bucket"),
        ("s3://b", xml("PermanentRedirect"), "in another region: set AWS_REGION"),
        ("s3://b", xml("AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"),
         "in another region (eu-west-1): set AWS_REGION"),
        ("s3://b", "Received redirect without LOCATION, this normally indicates an incorrectly "
         "configured region", "set AWS_REGION"),
        ("s3://b", "error connecting to http://169.254.169.254/latest/api/token",
         "no credentials: set AWS_ACCESS_KEY_ID"),
        ("az://c", xml("AuthenticationFailed"), "check AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://c", xml("AuthenticationFailed", "Signature not valid in the specified time frame"),
         "AZURE_STORAGE_SAS_TOKEN in the environment"),
        ("gs://b", "401 Unauthorized", "GOOGLE_BEARER_TOKEN in the environment"),
        ("gs://b", "Unable to open service account file from /k.json: No such file",
         "the key is wrong: check GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b", "Generic AwsLcCryptoProvider error: Error reading pem file: no items found",
         "the key is wrong: check GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b", 'token: 400 Bad Request: {"error":"invalid_grant"}',
         "the key is wrong: check GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b", "500 Internal Server Error: <a><b>broken</b></a>", "broken"),
        ("s3://b", xml("OddFault", "No.", "<StringToSign>AWS4 PRIVATE</StringToSign>"),
         "403 Forbidden: OddFault: No."),
    ],
)  # fmt: skip
def test_a_refusal_names_the_remedy_and_repeats_no_signature(url, text, remedy):
    error = explained(
        GenericError(f"Error performing GET {SIGNED} in 1 ms - {text}\n\nDebug source:\n{SIGNED}"),
        url,
    )
    assert isinstance(error, StorageError)
    assert str(error).startswith(f"{url}: ")
    assert remedy in str(error)
    assert "PRIVATE" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text", [xml("AccessDenied"), xml("PublicAccessNotPermitted"), "401 Unauthorized"]
)
def test_who_reads_a_private_bucket_unsigned_is_not_told_to_do_just_that(text):
    message = str(explained(GenericError(text), "s3://b", signed=False))
    assert message == (
        "s3://b: it is not public: leave out --anonymous and set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY in the environment"
    )


class _Nothing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404, "no bucket of that name")

    def log_message(self, *args: object) -> None:
        pass


def test_a_number_in_a_url_is_no_status(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    try:
        with pytest.raises(OSError, match="no bucket of that name"):
            zarr_store("s3://b403/target.zarr")
    finally:
        server.shutdown()
        server.server_close()


def test_a_missing_object_is_not_a_missing_bucket():
    missing = explained(FileNotFoundError("404: <Code>NoSuchKey</Code>"), "s3://b/x")
    assert type(missing) is FileNotFoundError
    assert str(missing) == "s3://b/x does not exist"


def test_the_cause_is_not_chained_since_tracebacks_show_it():
    with pytest.raises(StorageError) as raised, explaining("s3://b"):
        raise GenericError(SIGNED)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_urls_of_object_stores_are_told_from_others():
    assert is_cloud("s3://b/x")
    assert is_cloud("az://c")
    assert not is_cloud("http://h/x")
    assert not is_cloud("/s3/x")
    assert bucket_url("gs://b/a/c") == "gs://b"


def test_a_wrong_option_is_refused():
    with pytest.raises(ValueError, match="'secret' is not one of anonymous, endpoint, region"):
        open_bucket("s3://b", {"secret": "x"})


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://none/x", "s3"), ("gs://none/x", "gcs"), ("abfss://none/x", "azure")]
)
def test_a_store_whose_extra_is_missing_says_which_to_install(monkeypatch, url, extra):
    register()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ValueError, match=rf"pip install 'cte-dask\[{extra}\]'"):
        fsspec.open(url).open()
    with pytest.raises(ValueError, match=rf"pip install 'cte-dask\[{extra}\]'"):
        zarr_store(url)
