"""Where a number of replicas is read and set."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from inferstack_runtime.autoscaler.config import DryRunScale, KubernetesScale

_SECONDS = 10.0


class CannotScale(Exception):
    """The number of replicas cannot be read or set; the message says why."""


class Scale(Protocol):
    """The replicas of one slot."""

    dry_run: bool

    async def read(self) -> int | None:
        """The wanted number now, None where only the replicas that answer can be counted. Raises CannotScale."""

    async def write(self, replicas: int) -> None:
        """Set it, unless somebody has changed it since `read`. Raises CannotScale."""

    @property
    def registers(self) -> bool:
        """Whether the registration is kept here, where others read and write it too."""

    async def registration(self) -> Mapping[str, str]:
        """The entries of what is registered now; none for nothing. Raises CannotScale."""

    async def register(self, entries: Mapping[str, str]) -> None:
        """Keep a registration. Raises CannotScale."""


class DryRun:
    """Changes nothing."""

    dry_run = True
    registers = False

    async def read(self) -> int | None:
        return None

    async def write(self, replicas: int) -> None:
        return None

    async def registration(self) -> Mapping[str, str]:
        return {}

    async def register(self, entries: Mapping[str, str]) -> None:
        return None


class Deployment:
    """A Deployment of Kubernetes, by its subresource `scale`; its registration is a ConfigMap where one is named."""

    dry_run = False

    def __init__(self, config: KubernetesScale) -> None:
        self._config = config
        self._scale = f"{config.api}/apis/apps/v1/namespaces/{config.namespace}/deployments/{config.deployment}/scale"
        self._map = f"{config.api}/api/v1/namespaces/{config.namespace}/configmaps/{config.registration}"
        self._version: str | None = None

    @property
    def registers(self) -> bool:
        return self._config.registration is not None

    async def read(self) -> int | None:
        answer = await asyncio.to_thread(self._call, "GET", self._scale)
        self._version = answer.get("metadata", {}).get("resourceVersion")
        return int(answer.get("spec", {}).get("replicas", 0))

    async def write(self, replicas: int) -> None:
        version = {"metadata": {"resourceVersion": self._version}} if self._version else {}
        await asyncio.to_thread(self._call, "PATCH", self._scale, {**version, "spec": {"replicas": replicas}})

    async def registration(self) -> Mapping[str, str]:
        answer = await asyncio.to_thread(self._call, "GET", self._map)
        return answer.get("data") or {}

    async def register(self, entries: Mapping[str, str]) -> None:
        if self.registers:
            await asyncio.to_thread(self._call, "PATCH", self._map, {"data": dict(entries)})

    def _call(self, method: str, url: str, body: object = None) -> Any:
        try:
            token = Path(self._config.token_file).read_text().strip()  # read anew: it is renewed on disk
            headers = {"authorization": f"Bearer {token}", "content-type": "application/merge-patch+json"}
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - http(s) by the configuration
            context = ssl.create_default_context(cafile=self._config.ca_file) if url.startswith("https:") else None
            with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as answer:  # noqa: S310
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise CannotScale(f"{method} {url}: {error.code} {error.read()[:200].decode(errors='replace')}") from None
        except (OSError, ValueError) as error:
            raise CannotScale(f"{method} {url}: {error}") from None


def scale_of(config: KubernetesScale | DryRunScale) -> Scale:
    """What a configuration names."""
    return Deployment(config) if isinstance(config, KubernetesScale) else DryRun()
