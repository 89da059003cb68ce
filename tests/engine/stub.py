"""A stub of the clouds' providers: it echoes inputs as outputs, fills in what a cloud would, and keeps "the cloud" in a JSON file.

It serves any package over Pulumi's provider protocol. An edit of the file is drift; `fail_at` in it (a list of resource types)
makes the next creation of such a type fail once.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_SIGNATURE = "4dabf18193072939515e22adb298388d"

COMPUTED: dict[str, dict[str, Any]] = {
    "gcp:serviceaccount/account:Account": {"email": "NAME@project", "member": "serviceAccount:NAME@project", "name": "NAME"},
    "gcp:container/cluster:Cluster": {
        "name": "NAME",
        "controlPlaneEndpointsConfig": {"dnsEndpointConfig": {"endpoint": "cluster.example"}, "ipEndpointsConfig": {"enabled": False}},
    },
    "gcp:memorystore/instance:Instance": {
        "endpoints": [{"connections": [{"pscAutoConnection": {"ipAddress": "10.0.0.9", "port": 6379}}]}],
        "managedServerCas": [{"caCerts": [{"certificates": ["-----BEGIN CERTIFICATE-----"]}]}],
    },
    "azure-native:containerservice:ManagedCluster": {
        "name": "NAME",
        "nodeResourceGroup": "MC_NAME",
        "oidcIssuerProfile": {"enabled": True, "issuerURL": "https://issuer.example/"},
        "identityProfile": {"kubeletidentity": {"objectId": "kubelet"}},
        "identity": {"type": "UserAssigned", "principalId": "", "tenantId": "", "userAssignedIdentities": {}},
    },
    "azure-native:servicenetworking:FrontendsInterface": {"name": "NAME", "fqdn": "NAME.alb.example"},
    "azure-native:managedidentity:UserAssignedIdentity": {"name": "NAME", "principalId": "principal", "clientId": "client"},
    "azure-native:redisenterprise:RedisEnterprise": {"name": "NAME", "hostName": "redis.example"},
    "azure-native:containerregistry:Registry": {"name": "NAME", "loginServer": "registry.example"},
}
FUNCTIONS: dict[str, dict[str, Any]] = {
    "azure-native:containerservice:listManagedClusterUserCredentials": {"kubeconfigs": [{"name": "user", "value": "e30K"}]},
    "azure-native:redisenterprise:listDatabaseKeys": {"primaryKey": "the-primary-key", "secondaryKey": "other"},
}


class StubProvider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider for every package."""

    def __init__(self, store: Path) -> None:
        self.store, self.lock = store, threading.Lock()
        if not store.exists():
            store.write_text(json.dumps({"resources": {}, "fail_at": []}))

    def Handshake(self, request: Any, context: Any) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=True, accept_outputs=True)

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version="999.0.0")

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True, acceptResources=True, acceptOutputs=False)

    def Check(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> Any:
        old, new = _plain(request.old_inputs), _plain(request.news)
        changed = sorted(key for key in {*old, *new} if key not in set(request.ignoreChanges) and old.get(key) != new.get(key))
        some = provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=some, diffs=changed)

    def Create(self, request: Any, context: Any) -> Any:
        kind, name = _of(request.urn)
        if request.preview:
            return provider_pb2.CreateResponse(id="", properties=_outputs(kind, name, request.properties, preview=True))
        with self._cloud() as cloud:
            if kind in cloud["fail_at"]:
                cloud["fail_at"].remove(kind)
                context.abort(grpc.StatusCode.UNKNOWN, f"the stub was told to fail {kind}")
            outputs = _outputs(kind, name, request.properties, preview=False)
            identifier = f"/subscriptions/sub/{name}" if kind.startswith("azure-native:") else f"{name}-id"
            cloud["resources"][request.urn] = {"id": identifier, "type": kind, "inputs": _plain(request.properties)}
        return provider_pb2.CreateResponse(id=identifier, properties=outputs)

    def Read(self, request: Any, context: Any) -> Any:
        with self._cloud() as cloud:
            found = cloud["resources"].get(request.urn)
        if found is None:
            return provider_pb2.ReadResponse(id="", properties=Struct())
        inputs, properties = Struct(), Struct()
        inputs.CopyFrom(request.inputs)
        properties.CopyFrom(request.properties)
        for key, value in found["inputs"].items():
            if _plain(request.inputs).get(key) != value:
                inputs.update({key: value})
                properties.update({key: value})
        return provider_pb2.ReadResponse(id=request.id, properties=properties, inputs=inputs)

    def Update(self, request: Any, context: Any) -> Any:
        kind, name = _of(request.urn)
        if not request.preview:
            with self._cloud() as cloud:
                cloud["resources"][request.urn] = {"id": request.id, "type": kind, "inputs": _plain(request.news)}
        return provider_pb2.UpdateResponse(properties=_outputs(kind, name, request.news, preview=request.preview))

    def Delete(self, request: Any, context: Any) -> Any:
        with self._cloud() as cloud:
            cloud["resources"].pop(request.urn, None)
            cloud.setdefault("deleted", []).append(request.urn)
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> Any:
        answer = Struct()
        answer.update(FUNCTIONS[request.tok])
        return provider_pb2.InvokeResponse(**{"return": answer})

    def Attach(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    @contextmanager
    def _cloud(self) -> Iterator[dict[str, Any]]:
        with self.lock:
            cloud = json.loads(self.store.read_text())
            try:
                yield cloud
            finally:
                self.store.write_text(json.dumps(cloud, indent=1))


@contextmanager
def serving(store: Path) -> Iterator[int]:
    """Serve the stub on a free loopback port; yields the port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(StubProvider(store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


def _of(urn: str) -> tuple[str, str]:
    """Type and name of a URN."""
    _, _, kind, name = urn.split("::")
    return kind.rpartition("$")[2], name


def _outputs(kind: str, name: str, inputs: Any, *, preview: bool) -> Struct:
    """The inputs, completed by what the cloud knows: a name, addresses, identifiers; unknown in a preview."""
    outputs = Struct()
    outputs.CopyFrom(inputs)
    computed = COMPUTED.get(kind, {} if kind.startswith("kubernetes:") else {"name": "NAME"})
    for key, value in computed.items():
        if key == "identity" or key not in inputs.fields or isinstance(value, dict):
            outputs.update({key: UNKNOWN if preview else _named(value, name)})
    return outputs


def _named(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _named(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, name) for item in value]
    return value.replace("NAME", name) if isinstance(value, str) else value


def _plain(struct: Any) -> dict[str, Any]:
    found: dict[str, Any] = _unwrapped(json_format.MessageToDict(struct))
    return found


def _unwrapped(value: Any) -> Any:
    """The value without the protocol's wrapping of secrets and outputs."""
    if isinstance(value, Mapping):
        if _SIGNATURE in value:
            return _unwrapped(value.get("value"))
        return {key: _unwrapped(item) for key, item in value.items()}
    return [_unwrapped(item) for item in value] if isinstance(value, list) else value
