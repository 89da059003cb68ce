"""GkeStorage: a bucket for weights, a registry for images, and the identity by which pods read them."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp


class GkeStorageArgs(TypedDict):
    """Arguments of a GkeStorage."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    region: pulumi.Input[str]
    """Region of bucket and registry."""
    namespace: str
    """Kubernetes namespace of the pods that may read the weights."""
    service_accounts: list[str]
    """Kubernetes service accounts of those pods."""
    bucket: NotRequired[str]
    """Name of the bucket where it must be fixed; by default Pulumi makes one."""
    readable_buckets: NotRequired[list[str]]
    """Buckets that are there already, whose weights those pods may read too."""
    deletion_protection: NotRequired[bool]
    """Refuse to delete bucket and registry; on by default."""


class GkeStorage(pulumi.ComponentResource):
    """Bucket, registry and a service account that may read the weights and nothing else."""

    bucket: pulumi.Output[str]
    """Name of the bucket."""
    registry: pulumi.Output[str]
    """Address of the registry, for instance `europe-west4-docker.pkg.dev/my-project/inferstack`."""
    service_account: pulumi.Output[str]
    """Service account that pods act as."""

    def __init__(self, name: str, args: GkeStorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inferstack:index:GkeStorage", name, {**args}, opts)
        project, region, protected = args["project"], args["region"], args.get("deletion_protection", True)
        child = pulumi.ResourceOptions(parent=self)
        kept = pulumi.ResourceOptions(parent=self, protect=protected or None)
        self.bucket_resource = gcp.storage.Bucket(
            f"{name}-weights",
            project=project,
            name=args.get("bucket"),
            location=region,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            versioning={"enabled": True},
            lifecycle_rules=[{"action": {"type": "Delete"}, "condition": {"num_newer_versions": 3, "days_since_noncurrent_time": 30}}],
            force_destroy=False,
            opts=kept,
        )
        self.registry_resource = gcp.artifactregistry.Repository(
            f"{name}-images",
            project=project,
            location=region,
            repository_id=name,
            format="DOCKER",
            docker_config={"immutable_tags": True},
            opts=kept,
        )
        account = gcp.serviceaccount.Account(
            f"{name}-workload", project=project, account_id=account_id(name), display_name=f"Pods of {name}", opts=child
        )
        gcp.storage.BucketIAMMember(
            f"{name}-read-weights", bucket=self.bucket_resource.name, role="roles/storage.objectViewer", member=account.member, opts=child
        )
        for bucket in args.get("readable_buckets", []):
            gcp.storage.BucketIAMMember(
                f"{name}-read-bucket-{bucket}", bucket=bucket, role="roles/storage.objectViewer", member=account.member, opts=child
            )
        for kubernetes_account in args["service_accounts"]:
            gcp.serviceaccount.IAMMember(
                f"{name}-as-{kubernetes_account}",
                service_account_id=account.name,
                role="roles/iam.workloadIdentityUser",
                member=pulumi.Output.concat("serviceAccount:", project, f".svc.id.goog[{args['namespace']}/{kubernetes_account}]"),
                opts=child,
            )
        self.bucket = self.bucket_resource.name
        self.registry = pulumi.Output.concat(region, "-docker.pkg.dev/", project, "/", self.registry_resource.repository_id)
        self.service_account = account.email
        self.register_outputs({"bucket": self.bucket, "registry": self.registry, "service_account": self.service_account})


def account_id(name: str) -> str:
    """Account id of the pods' service account: at most 30 characters."""
    return f"{name[:20]}-workload"


def account_email(name: str, project: str) -> str:
    """Address of that account, known before it is made."""
    return f"{account_id(name)}@{project}.iam.gserviceaccount.com"
