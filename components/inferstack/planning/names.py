"""Names of everything that planning can find, so that a waiver of something else is seen to be a mistake."""

NAMES = frozenset(
    """
    accelerator-not-sold accelerator-unknown administrators-unset alert-always alert-unknown argument-owned argument-share
    budget-caps-replicas budget-hourly budget-monthly budget-promotion budget-unset cache-beyond-service cache-engine
    cache-larger-than-node cache-reserved cache-shared cache-size-too-small cache-too-large cache-too-small cache-unused
    capacity-not-offered cidr-invalid cidr-overlap cidr-public cidr-too-small context-beyond-model context-too-long control-plane-open
    disk-too-small drain-below-answer driver-missing engine-without-gpu engine-without-keys flex-start-minimum floor-without-spot
    forecast-without-autoscaler format-unpacked gates-unmeasured gateway-below-answer gateway-below-drain grace-beyond-autoscaler
    huge-pages-too-many idle-nodes image-digest image-invalid key-set-without-tls kubernetes-too-old limits-not-shared local-ssd-count
    machine-retired machine-too-few-gpus machine-unknown machine-without-accelerator memory-too-small model-config model-hash
    model-too-large model-unknown parallel-heads parallel-layers parallel-mismatch partition-and-sharing partition-split
    partition-unknown placement-zones pool-too-small port-without-tls pre-stop-short price-unknown price-unstated production-replicas
    production-unprotected promotion-no-room promotion-no-surge promotion-stepped public-without-tls quantization-hardware
    quantization-unsupported queue-needs-adapter queue-without-metrics quota-exceeded quota-unknown ready-too-short receiver-unknown
    region-unknown region-without-accelerator replica-larger-than-node replica-too-large replica-too-small replicas-without-scaler
    reservation-invalid scaler-and-fixed-replicas setting-without-effect sharing-engine sharing-split sharing-too-many signal-blind
    source-other-account source-second-bucket source-unreachable speed-unknown spot-notice spot-without-floor step-below-sequences
    step-small storage-too-small system-machine-with-gpu target-unreachable tier-weights waiver-expired waiver-too-long waiver-unknown
    waiver-unused zero-without-signal zone-unknown zone-without-accelerator
    """.split()  # noqa: SIM905 - a hundred names read better without quotes
)
