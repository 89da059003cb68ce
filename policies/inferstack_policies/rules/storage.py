"""Weights, images and caches are encrypted, private, and kept in production."""

from collections.abc import Iterator

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import at


def public(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.type == "gcp:storage/bucket:Bucket":
        if r.props.get("publicAccessPrevention") != "enforced":
            yield "publicAccessPrevention", "an object of the bucket may be made public."
        if r.props.get("uniformBucketLevelAccess") is not True:
            yield "uniformBucketLevelAccess", "single objects may have rights of their own that nobody sees."
    if r.type == "azure-native:storage:StorageAccount" and r.props.get("allowBlobPublicAccess") is not False:
        yield "allowBlobPublicAccess", "a container of the account may be made public."
    if r.type == "azure-native:containerregistry:Registry":
        if r.props.get("adminUserEnabled") is True:
            yield "adminUserEnabled", "one password opens the whole registry."
        if r.props.get("anonymousPullEnabled") is True:
            yield "anonymousPullEnabled", "everybody may pull images, with the weights in them."
    if r.type == "azure-native:redisenterprise:RedisEnterprise" and r.props.get("publicNetworkAccess") != "Disabled":
        yield "publicNetworkAccess", "the cache, with prompts and answers, has an address on the internet."


def encrypted(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.type == "azure-native:storage:StorageAccount":
        if r.props.get("enableHttpsTrafficOnly") is False:
            yield "enableHttpsTrafficOnly", "weights may be read in plain HTTP."
        if r.props.get("minimumTlsVersion") not in ("TLS1_2", "TLS1_3"):
            yield "minimumTlsVersion", "versions of TLS with known holes are accepted."
    if r.type == "azure-native:redisenterprise:Database" and r.props.get("clientProtocol") != "Encrypted":
        yield "clientProtocol", "prompts and answers cross the network readable."


def cache_encrypted(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.type == "gcp:memorystore/instance:Instance" and r.props.get("transitEncryptionMode") != "SERVER_AUTHENTICATION":
        yield "transitEncryptionMode", "between the slots and the cache only Google's own network encryption holds."


def authenticated(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.type == "gcp:memorystore/instance:Instance" and r.props.get("authorizationMode") != "IAM_AUTH":
        yield "authorizationMode", "whoever reaches the address reads every answer."


def kept(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    if not context.production:
        return
    if r.type == "gcp:storage/bucket:Bucket":
        if r.props.get("forceDestroy") is True:
            yield "forceDestroy", "the bucket of production is deleted with all weights."
        if at(r.props, "versioning", "enabled") is not True and at(r.props, "softDeletePolicy", "retentionDurationSeconds") in (
            0,
            0.0,
            "0",
        ):
            yield "softDeletePolicy", "deleted weights are gone at once."
    if r.type == "gcp:memorystore/instance:Instance" and r.props.get("deletionProtectionEnabled") is False:
        yield "deletionProtectionEnabled", "one command deletes the cache of production."


RULES = (
    Rule(
        "storage-private",
        "error",
        "Weights are what was paid for, and may not be given away.",
        "Enforce public access prevention; no registry passwords; caches inside the network.",
        ("CKV_GCP_29", "CKV_GCP_114", "CKV_AZURE_59", "CKV_AZURE_137", "CKV_AZURE_138", "GCP-0001", "AZU-0007"),
        frozenset({"Bucket", "StorageAccount", "Registry", "RedisEnterprise"}),
        public,
    ),
    Rule(
        "storage-encrypted",
        "error",
        "The cache holds prompts and answers of all tenants.",
        "Turn TLS on for every client.",
        ("CKV_AZURE_3", "CKV_AZURE_44", "AZU-0008", "AZU-0011"),
        frozenset({"StorageAccount", "Database"}),
        encrypted,
    ),
    Rule(
        "cache-encrypted",
        "warning",
        "The cache holds prompts and answers; TLS of its own does not rely on the network's.",
        "Set transit encryption, and give the slots the instance's authority.",
        ("CKV_GCP_97",),
        frozenset({"Instance"}),
        cache_encrypted,
    ),
    Rule(
        "storage-authenticated",
        "warning",
        "A network is not a person.",
        "Use IAM authentication for the cache.",
        ("CKV_GCP_95",),
        frozenset({"Instance"}),
        authenticated,
    ),
    Rule(
        "storage-kept",
        "error",
        "What production needs is not deleted by mistake.",
        "Leave forceDestroy out, keep soft delete and deletion protection.",
        ("CKV_GCP_78",),
        frozenset({"Bucket", "Instance"}),
        kept,
    ),
)
