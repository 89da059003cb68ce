"""A resource monitor, over Pulumi's own gRPC protocol, and an engine that record what a program asks for.

It plays the part of the engine for one program run: every registration is answered with the inputs as outputs, and kept. In a preview
(`preview=True`) what only a provider could know (identifiers, computed outputs) stays unknown, as in `pulumi preview` of a new stack.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import engine_pb2, resource_pb2, resource_pb2_grpc

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the protocol writes a value that is not known yet."""
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a protocol constant
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_RESOURCE = "5cf8f73096256a8f31e491e813e4eb8e"

_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

_OTHER_SHAPE = {"azure-native": ("identity",)}
"""Properties whose output has another shape than the input, by package: they stay unknown (Azure answers a list of identities by a map)."""

_FEATURES = [
    resource_pb2.RESOURCE_MONITOR_FEATURE_SECRETS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES,
    resource_pb2.RESOURCE_MONITOR_FEATURE_OUTPUT_VALUES,
    resource_pb2.RESOURCE_MONITOR_FEATURE_ALIAS_SPECS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_DELETED_WITH,
    resource_pb2.RESOURCE_MONITOR_FEATURE_REPLACE_WITH,
    resource_pb2.RESOURCE_MONITOR_FEATURE_TRANSFORMS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_INVOKE_TRANSFORMS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_HOOKS,
]


@dataclass(frozen=True)
class Registration:
    """One resource as the program registered it; `inputs` is plain JSON data, see `plain`."""

    type: str
    name: str
    urn: str
    parent: str
    """URN of the parent; empty for the stack itself."""
    custom: bool
    inputs: Mapping[str, Any]
    secrets: frozenset[str]
    """Top-level inputs that hold a secret."""
    provider: str
    dependencies: tuple[str, ...]
    protect: bool
    ignore_changes: tuple[str, ...]
    retain_on_delete: bool
    deleted_with: str
    delete_before_replace: bool
    custom_timeouts: Mapping[str, str]
    aliases: tuple[str, ...]


@dataclass
class Recorder(resource_pb2_grpc.ResourceMonitorServicer):
    """The servicer of the monitor; answers any number of calls at once.

    `functions` answers provider functions by token, `references` stack references by name, `known` what a provider said of a resource,
    by the program's name for it (its identifier as `id`); one that is not named is unknown.
    """

    stack: str
    project: str
    preview: bool = False
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    registrations: list[Registration] = field(default_factory=list)
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Outputs that components and the stack registered, by URN."""
    messages: list[tuple[str, str]] = field(default_factory=list)
    """(severity, text) of what the program logged, debugging left out."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def GetDeploymentInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's names
        return resource_pb2.DeploymentInfo(supportedFeatures=_FEATURES)

    def SupportsFeature(self, request: Any, context: Any) -> Any:  # noqa: N802
        return resource_pb2.SupportsFeatureResponse(hasSupport=True)

    def RegisterResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        urn = self._urn(request.parent, request.type, request.name)
        inputs = plain(request.object)
        registration = Registration(
            type=request.type,
            name=request.name,
            urn=urn,
            parent=request.parent,
            custom=request.custom,
            inputs=inputs,
            secrets=frozenset(key for key, value in request.object.fields.items() if _holds_secret(_value(value))),
            provider=request.provider,
            dependencies=tuple(sorted(request.dependencies)),
            protect=request.protect,
            ignore_changes=tuple(request.ignoreChanges),
            retain_on_delete=request.retainOnDelete,
            deleted_with=request.deletedWith,
            delete_before_replace=request.deleteBeforeReplace,
            custom_timeouts={name: value for name in ("create", "update", "delete") if (value := getattr(request.customTimeouts, name))},
            aliases=tuple(alias.urn or alias.spec.name for alias in request.aliases),
        )
        with self._lock:
            if any(other.urn == urn for other in self.registrations):
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Duplicate resource URN '{urn}'; try giving it a unique name")
            self.registrations.append(registration)
        answer = Struct()
        answer.CopyFrom(request.object)
        for key in _OTHER_SHAPE.get(request.type.partition(":")[0], ()):
            answer.fields.pop(key, None)
        said = self.known.get(request.name, {}) if request.custom else {}
        answer.update({key: value for key, value in said.items() if key != "id"})
        identifier = said.get("id", f"{request.name}-id" if request.custom and not self.preview else "")  # empty: not known yet
        return resource_pb2.RegisterResourceResponse(urn=urn, id=identifier, object=answer)

    def RegisterResourceOutputs(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.outputs[request.urn] = plain(request.outputs)
        return empty_pb2.Empty()

    def ReadResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        urn = self._urn(request.parent, request.type, request.name)
        answer = Struct()
        answer.CopyFrom(request.properties)
        if request.type == "pulumi:pulumi:StackReference":
            known = self.references.get(request.id)
            answer.update({"name": request.id, "secretOutputNames": []})
            answer.update({"outputs": UNKNOWN if known is None else dict(known)})
        return resource_pb2.ReadResourceResponse(urn=urn, properties=answer)

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = Struct()
        known = self.functions.get(request.tok)
        if known is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"the function {request.tok} needs the cloud: a plan cannot call it")
        answer.update(dict(known or {}))
        return resource_pb2.ResourceInvokeResponse(**{"return": answer})

    def RegisterPackage(self, request: Any, context: Any) -> Any:  # noqa: N802
        return resource_pb2.RegisterPackageResponse(ref=f"{request.name}-{request.version}")

    def RegisterStackTransform(self, request: Any, context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()

    RegisterStackInvokeTransform = RegisterResourceHook = RegisterErrorHook = RegisterStackTransform
    SignalAndWaitForShutdown = RegisterStackTransform

    def _urn(self, parent: str, kind: str, name: str) -> str:
        above = parent.split("::")[2] if parent else ""
        qualified = f"{above}${kind}" if above and above != "pulumi:pulumi:Stack" else kind
        return f"urn:pulumi:{self.stack}::{self.project}::{qualified}::{name}"


@dataclass
class Engine:
    """The engine's methods, called without a protocol between: a program logs several lines of debugging for each resource."""

    recorder: Recorder
    root: str = ""

    def Log(self, request: Any) -> Any:  # noqa: N802
        if request.severity != engine_pb2.DEBUG:
            self.recorder.messages.append((engine_pb2.LogSeverity.Name(request.severity).lower(), request.message))
        return empty_pb2.Empty()

    def GetRootResource(self, request: Any) -> Any:  # noqa: N802
        return engine_pb2.GetRootResourceResponse(urn=self.root)

    def SetRootResource(self, request: Any) -> Any:  # noqa: N802
        self.root = request.urn
        return engine_pb2.SetRootResourceResponse()

    def RequirePulumiVersion(self, request: Any) -> Any:  # noqa: N802
        return engine_pb2.RequirePulumiVersionResponse()


@contextmanager
def serving(recorder: Recorder) -> Iterator[grpc.Channel]:
    """Serve the protocol on a free loopback port; yields an open channel to it."""
    workers = ThreadPoolExecutor(max_workers=8)
    server = grpc.server(workers, options=_CHANNEL_OPTIONS)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=_CHANNEL_OPTIONS) as channel:
            yield channel
    finally:
        server.stop(grace=None).wait()
        workers.shutdown()


def plain(struct: Any) -> dict[str, Any]:
    """Plain JSON data of a protocol message: whole numbers as int, secrets as `[secret]`, unknown values as `[unknown]`."""
    return {key: _simplify(_value(value)) for key, value in sorted(struct.fields.items())}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: _value(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _simplify(value: Any) -> Any:
    if isinstance(value, dict):
        signature = value.get(_SIGNATURE)
        if signature == _SECRET or (signature == _OUTPUT and value.get("secret")):
            return _mask(_simplify(value.get("value")))
        if signature == _OUTPUT:
            return _simplify(value["value"]) if "value" in value else "[unknown]"
        if signature == _RESOURCE:
            return f"[resource {value.get('urn', '').rpartition('::')[2]}]"
        return {key: _simplify(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_simplify(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "[unknown]" if value == UNKNOWN else value


def _mask(value: Any) -> Any:
    """The shape of a secret value, without any of its text."""
    if isinstance(value, dict):
        return {key: _mask(item) for key, item in value.items()}
    return [_mask(item) for item in value] if isinstance(value, list) else "[secret]"


def _holds_secret(value: Any) -> bool:
    if isinstance(value, dict):
        signature = value.get(_SIGNATURE)
        secret = signature == _SECRET or (signature == _OUTPUT and bool(value.get("secret")))
        return secret or any(_holds_secret(item) for item in value.values())
    return isinstance(value, list) and any(_holds_secret(item) for item in value)
