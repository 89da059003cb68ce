"""A managed cache that is opened by the cloud's token: a real Valkey with ACL users, and the clouds' token services spoken by a fake."""

import asyncio
import base64
import http.server
import json
import threading
import urllib.parse
from contextlib import asynccontextmanager

import pytest
import redis

from inferstack_runtime.caching import identity
from inferstack_runtime.caching.identity import Identity, NoToken, Token, fetch_token
from inferstack_runtime.caching.shared import SharedStore, StoreDown
from inferstack_runtime.config import InvalidConfig, parse_config
from inferstack_runtime.metrics import Metrics

OBJECT = "5bb0ee2e-5f5d-4b8e-9d0c-1f3f5a7f0c11"


def jwt(number, **claims):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()  # noqa: E731
    return f"{part({'alg': 'none'})}.{part({'oid': OBJECT, 'number': number, **claims})}.signature"


class TokenService:
    """The three addresses. `issue` is told each token; `refuse` is a status for all."""

    def __init__(self):
        self.asked, self.issued, self.seconds, self.refuse, self.body = [], [], 3600, 0, None
        self.issue = lambda token: None
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                self._answer(self.rfile.read(int(self.headers["content-length"])).decode())

            def _answer(self, form):
                service.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, form))
                status, answer = service.refuse or 200, {}
                if status == 200:
                    token = jwt(len(service.issued))
                    service.issued.append(token)
                    service.issue(token)
                    answer = service.body or {"access_token": token, "expires_in": service.seconds, "token_type": "Bearer"}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service():
    service = TokenService()
    yield service
    service.close()


def test_google_is_asked_as_its_metadata_server_wants(service):
    found = fetch_token("google", {"GCE_METADATA_HOST": service.host})
    assert found == Token("default", service.issued[0], 3600)
    ((path, headers, form),) = service.asked
    assert path == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert headers["metadata-flavor"] == "Google"
    assert form is None


def test_azure_is_asked_with_the_pod_s_own_assertion_or_at_the_machine(service, tmp_path):
    file = tmp_path / "federated"
    file.write_text("assertion-of-the-cluster\n")
    base = {"AZURE_CLIENT_ID": "client", "AZURE_TENANT_ID": "tenant", "AZURE_AUTHORITY_HOST": f"http://{service.host}/"}
    found = fetch_token("azure", {**base, "AZURE_FEDERATED_TOKEN_FILE": str(file)})
    assert (found.user, found.seconds) == (OBJECT, 3600)
    path, _, form = service.asked[0]
    assert path == "/tenant/oauth2/v2.0/token"
    fields = dict(urllib.parse.parse_qsl(form))
    assert fields["client_assertion"] == "assertion-of-the-cluster"
    assert fields["scope"] == "https://redis.azure.com/.default"
    assert fields["grant_type"] == "client_credentials"
    service.body = {"access_token": jwt(7), "expires_in": "86399", "expires_on": "1"}
    found = fetch_token("azure", {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{service.host}", "AZURE_CLIENT_ID": "client"})
    assert (found.user, found.seconds) == (OBJECT, 86399)
    path, headers, _ = service.asked[1]
    query = dict(urllib.parse.parse_qsl(path.partition("?")[2]))
    assert path.startswith("/metadata/identity/oauth2/token?")
    assert query == {"api-version": "2018-02-01", "resource": "https://redis.azure.com", "client_id": "client"}
    assert headers["metadata"] == "true"


@pytest.mark.parametrize(
    "body",
    [
        {"access_token": "", "expires_in": 3600},
        {"access_token": "x"},
        {"expires_in": 60},
        {"access_token": "x", "expires_in": -1},
        {"access_token": "x", "expires_in": "soon"},
        {"access_token": 3, "expires_in": 60},
        {"access_token": "a.b.c", "expires_in": 60},
        {"access_token": "opaque", "expires_in": 60},
        {"access_token": "a." + base64.urlsafe_b64encode(b"[]").decode() + ".c", "expires_in": 60},
        [1],
    ],
)
def test_an_answer_that_is_no_token_says_where_it_came_from(service, body):
    service.body = body
    with pytest.raises(NoToken, match=service.host):
        fetch_token("azure", {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{service.host}"})


def test_a_refusal_names_the_status_and_never_a_secret(service, tmp_path):
    file = tmp_path / "federated"
    file.write_text("assertion-of-the-cluster")
    service.refuse = 403
    base = {"AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t", "AZURE_AUTHORITY_HOST": f"http://{service.host}"}
    with pytest.raises(NoToken, match="HTTP 403") as refused:
        fetch_token("azure", {**base, "AZURE_FEDERATED_TOKEN_FILE": str(file)})
    assert "assertion-of" not in str(refused.value)
    with pytest.raises(NoToken, match="cannot be read"):
        fetch_token("azure", {**base, "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "none")})
    with pytest.raises(NoToken, match="refused"):
        fetch_token("google", {"GCE_METADATA_HOST": "127.0.0.1:1"})


def test_a_token_and_a_password_in_the_address_are_one_too_many():
    raw = {"models": [{"name": "m", "source": "package://m"}]}
    for cache in (
        {"identity": "google"},
        {"identity": "google", "url": "redis://user:word@host"},
        {"identity": "aws", "url": "redis://host"},
    ):
        with pytest.raises(InvalidConfig, match="identity"):
            parse_config({**raw, "cache": cache})
    assert parse_config({**raw, "cache": {"identity": "azure", "url": "rediss://host:10000"}}).cache.identity == "azure"


class Guard:
    """The server's side of a cloud: its user knows exactly the tokens that are valid."""

    def __init__(self, server, user):
        self.user = user
        self._admin = redis.Redis.from_url(server.url)
        self._admin.acl_setuser("admin", enabled=True, passwords=["+root"], keys=["*"], channels=["*"], categories=["+@all"])
        self._admin.close()
        self.admin = redis.Redis.from_url(server.url, username="admin", password="root")
        self.only()

    def only(self, *tokens):
        """From now on these tokens open a connection, and no other."""
        passwords = [f">{token}" for token in tokens]
        self.admin.execute_command("ACL", "SETUSER", self.user, "reset", "on", *passwords, "~*", "&*", "+@all")
        if self.user != "default":
            self.admin.execute_command("ACL", "SETUSER", "default", "off")

    def end_connections(self):
        """What the clouds do when a token's time is over and nobody signed in again."""
        self.admin.execute_command("CLIENT", "KILL", "USER", self.user)

    def sign_ins(self):
        return self.admin.info("commandstats").get("cmdstat_auth", {}).get("calls", 0)

    def connections(self):
        return self.admin.info("stats")["total_connections_received"]


@pytest.fixture(params=["google", "azure"])
def guarded(request, valkey, service, monkeypatch):
    guard = Guard(valkey, {"google": "default", "azure": OBJECT}[request.param])
    service.issue = lambda token: guard.only(*service.issued[-2:])
    monkeypatch.setenv("GCE_METADATA_HOST", service.host)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{service.host}")
    monkeypatch.setattr(identity, "_RETRY_SECONDS", 0.2)
    guard.cloud, guard.url = request.param, valkey.url
    yield guard
    guard.admin.close()


@asynccontextmanager
async def signed_in(guard, metrics):
    store = SharedStore(guard.url, 0.5, metrics, identity=Identity(guard.cloud, metrics))
    keeping = asyncio.create_task(store.keep_signed_in())
    await store.open()
    try:
        yield store
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await store.close()


async def later(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def works(store):
    try:
        return await store.call("cache", lambda client: client.set("key", "value"))
    except StoreDown:
        return False


@pytest.mark.parts
async def test_open_connections_sign_in_again_before_the_token_ends(guarded, service):
    service.seconds = 6
    metrics = Metrics()
    async with signed_in(guarded, metrics) as store:
        assert await asyncio.gather(*(works(store) for _ in range(8))) == [True] * 8
        connections, sign_ins = guarded.connections(), guarded.sign_ins()
        await later(lambda: len(service.issued) >= 3)
        await asyncio.sleep(0.2)
        guarded.only(service.issued[-1])
        assert await asyncio.gather(*(works(store) for _ in range(8))) == [True] * 8
        assert guarded.connections() == connections, "no connection was made anew"
        assert guarded.sign_ins() >= sign_ins + 8
        assert metrics.value("inferstack_shared_store_tokens_total", result="ok") >= 3
        assert metrics.value("inferstack_shared_store_up") == 1


@pytest.mark.parts
async def test_after_a_token_ended_and_its_connections_the_next_token_opens_new_ones(guarded, service):
    service.seconds = 4
    metrics = Metrics()
    async with signed_in(guarded, metrics) as store:
        assert await works(store)
        service.refuse = 503
        await later(lambda: metrics.value("inferstack_shared_store_tokens_total", result="failed") >= 2)
        assert await works(store), "a quarter of its life is left for a token service that is away"
        guarded.only()
        guarded.end_connections()
        assert not await works(store)
        assert metrics.value("inferstack_shared_store_up") == 0
        service.refuse = 0
        await asyncio.sleep(1.1)
        async with asyncio.timeout(5):
            while not await works(store):
                await asyncio.sleep(0.1)
        assert metrics.value("inferstack_shared_store_up") == 1


@pytest.mark.parts
async def test_a_token_that_is_revoked_before_its_time_is_replaced(guarded, service):
    metrics = Metrics()
    async with signed_in(guarded, metrics) as store:
        assert await works(store)
        guarded.only()
        guarded.end_connections()
        assert not await works(store)
        async with asyncio.timeout(10):
            while not await works(store):
                await asyncio.sleep(0.1)
        assert len(service.issued) == 2


@pytest.mark.parts
async def test_a_process_that_starts_before_its_identity_signs_in_once_it_is_there(guarded, service):
    service.refuse = 404
    metrics = Metrics()
    async with signed_in(guarded, metrics) as store:
        assert not await works(store)
        service.refuse = 0
        async with asyncio.timeout(10):
            while not await works(store):
                await asyncio.sleep(0.1)
