"""The part of the Kubernetes API that promotion needs, over plain HTTP, with its faults told apart.

    api = KubeApi.from_kubeconfig(context=None)
    route = api.get("/apis/gateway.networking.k8s.io/v1/namespaces/n/httproutes/inferstack")     # None when there is none

Credentials come from the official client, which knows kubeconfigs, in-cluster tokens and the clouds' exec plugins.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from inferstack.promotion.platform import Conflict, PlatformError, SlotFailed, Unavailable

MANAGER = "inferstack-promotion"
"""Field manager of everything that promotion applies."""
SECONDS = 15.0
READ_AGAIN = (0.1, 0.4)
"""Waits before a read that failed is tried again; a write is never repeated without a new look."""
Object = dict[str, Any]


class KubeApi:
    """One API server. `token` gives the current bearer token, or None where certificates speak."""

    def __init__(
        self, client: httpx.Client, token: Callable[[], str | None] = lambda: None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._token = token
        self.sleep = sleep

    @classmethod
    def from_kubeconfig(cls, context: str | None = None) -> "KubeApi":
        """By `KUBECONFIG` or ~/.kube/config, else from inside a pod. Raises PlatformError when neither leads anywhere."""
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            load_kubeconfig(context, settings)
        except (config.ConfigException, OSError) as error:
            if context is not None:
                raise PlatformError(f"kubeconfig: {error}; `kubectl config get-contexts` lists what there is") from None
            try:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            except config.ConfigException:
                raise PlatformError(f"no cluster: {error}") from None
        import ssl

        verify: ssl.SSLContext | bool = bool(settings.verify_ssl)
        if settings.verify_ssl:
            verify = ssl.create_default_context(cafile=settings.ssl_ca_cert)
            if settings.cert_file:
                verify.load_cert_chain(settings.cert_file, settings.key_file)

        def token() -> str | None:
            value: str | None = settings.get_api_key_with_prefix("authorization") or settings.get_api_key_with_prefix("BearerToken")
            return value

        return cls(httpx.Client(base_url=settings.host, verify=verify, trust_env=False), token)

    @property
    def server(self) -> str:
        """Where it is, for instance `https://10.0.0.1:6443`."""
        return str(self._client.base_url).rstrip("/")

    def get(self, path: str, **query: str) -> Object | None:
        """The object; None when the server says that there is none. Never None for any other fault."""
        try:
            return self._call("GET", path, query=query)
        except _NotFound:
            return None

    def items(self, path: str, **query: str) -> list[Object]:
        """The items of a list."""
        found = self.get(path, **query)
        return list(found.get("items", [])) if found else []

    def text(self, path: str, **query: str) -> str:
        """A body that is not JSON, for instance a log."""
        return self._send("GET", path, None, None, query).text

    def create(self, path: str, body: Object) -> Object:
        """Raises Conflict when it exists already."""
        return self._call("POST", path, body, query={"fieldManager": MANAGER})

    def replace(self, path: str, body: Object) -> Object:
        """With `metadata.resourceVersion` in `body`: raises Conflict when the object was changed since."""
        return self._call("PUT", path, body, query={"fieldManager": MANAGER})

    def apply(self, path: str, body: Object, *, force: bool = True, manager: str = MANAGER) -> Object:
        """Server-side apply; with `metadata.resourceVersion` it is a compare-and-swap."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self._call("PATCH", path, body, "application/apply-patch+yaml", query)

    def merge(self, path: str, body: Object) -> Object:
        """JSON merge patch."""
        return self._call("PATCH", path, body, "application/merge-patch+json", {"fieldManager": MANAGER})

    def delete(self, path: str, version: str | None = None) -> bool:
        """Begin to delete; False when there was nothing. What it owns goes with it. With a `version` it is a compare-and-swap."""
        only = {} if version is None else {"preconditions": {"resourceVersion": version}}
        try:
            self._call("DELETE", path, {"propagationPolicy": "Background", **only})
        except _NotFound:
            return False
        return True

    def _call(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json", query: Mapping[str, str] | None = None
    ) -> Object:
        answer = self._send(method, path, body, kind, query)
        try:
            found = answer.json()
        except ValueError:
            raise Unavailable(f"{method} {path}: the answer is not JSON") from None
        return dict(found)

    def _send(self, method: str, path: str, body: Object | None, kind: str | None, query: Mapping[str, str] | None) -> httpx.Response:
        headers = {"Accept": "application/json, */*"} | ({"Content-Type": kind} if kind and body is not None else {})
        if (token := self._token()) is not None:
            headers["Authorization"] = token
        url = quote(path) + (f"?{urlencode(query)}" if query else "")
        for wait in READ_AGAIN if method == "GET" else ():
            try:
                return self._once(method, url, path, body, headers)
            except Unavailable:
                self.sleep(wait)
        return self._once(method, url, path, body, headers)

    def _once(self, method: str, url: str, path: str, body: Object | None, headers: Mapping[str, str]) -> httpx.Response:
        try:
            answer = self._client.request(
                method, url, content=None if body is None else json.dumps(body).encode(), headers=headers, timeout=SECONDS
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"{method} {self.server}{path}: {type(error).__name__}: {error}") from None
        if answer.status_code >= 400:
            raise _fault(method, path, answer)
        return answer


class _NotFound(PlatformError):
    """The server says that there is no such object."""


def _fault(method: str, path: str, answer: httpx.Response) -> PlatformError:
    try:
        message = str(answer.json().get("message") or answer.text)
    except ValueError:
        message = answer.text
    text, status = f"{method} {path}: {answer.status_code} {message[:500]}", answer.status_code
    if status == 404:
        return _NotFound(text)
    if status == 401:
        return PlatformError(f"{text}: the server does not accept the kubeconfig's credentials; they may have run out, log in again")
    if status == 409:
        return Conflict(text)
    if status == 429 or status >= 500:
        return Unavailable(text)
    if status in (400, 422) or (status == 403 and ("quota" in message or "admission webhook" in message or "violates" in message)):
        return SlotFailed(text)
    return PlatformError(text)


def load_kubeconfig(context: str | None, settings: Any) -> None:
    """Fill a client's `Configuration` from `KUBECONFIG` as it is now (the library reads it once, at import) or ~/.kube/config.

    Raises kubernetes.config.ConfigException or OSError.
    """
    from kubernetes import config

    file = os.environ.get("KUBECONFIG") or None
    config.load_kube_config(config_file=file, context=context, client_configuration=settings)  # type: ignore[no-untyped-call]
