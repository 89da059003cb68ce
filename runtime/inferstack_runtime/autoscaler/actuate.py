"""Where a number of replicas is read and set."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
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
        """Set it. Raises CannotScale."""


class DryRun:
    """Changes nothing."""

    dry_run = True

    async def read(self) -> int | None:
        return None

    async def write(self, replicas: int) -> None:
        return None


class Deployment:
    """A Deployment of Kubernetes, by its subresource `scale`."""

    dry_run = False

    def __init__(self, config: KubernetesScale) -> None:
        self._config = config
        self._url = f"{config.api}/apis/apps/v1/namespaces/{config.namespace}/deployments/{config.deployment}/scale"

    async def read(self) -> int | None:
        answer = await asyncio.to_thread(self._call, "GET", None)
        return int(answer.get("spec", {}).get("replicas", 0))

    async def write(self, replicas: int) -> None:
        await asyncio.to_thread(self._call, "PATCH", {"spec": {"replicas": replicas}})

    def _call(self, method: str, body: object) -> Any:
        try:
            token = Path(self._config.token_file).read_text().strip()  # read anew: it is renewed on disk
            headers = {"authorization": f"Bearer {token}", "content-type": "application/merge-patch+json"}
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self._url, data, headers, method=method)  # noqa: S310 - http(s) by the configuration
            context = ssl.create_default_context(cafile=self._config.ca_file) if self._url.startswith("https:") else None
            with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as answer:  # noqa: S310
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise CannotScale(f"{method} {self._url}: {error.code} {error.read()[:200].decode(errors='replace')}") from None
        except (OSError, ValueError) as error:
            raise CannotScale(f"{method} {self._url}: {error}") from None


def scale_of(config: KubernetesScale | DryRunScale) -> Scale:
    """What a configuration names."""
    return Deployment(config) if isinstance(config, KubernetesScale) else DryRun()
