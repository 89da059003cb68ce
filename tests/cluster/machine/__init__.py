"""A real Kubernetes on one machine, for tests: built from Go modules, started in seconds, gone without a trace.

    python -m machine up | down | status | kubeconfig | run -- COMMAND      (scripts/cluster)

Three modes, the first that the machine allows: `pods` (kubelet and containers in own namespaces, needs root),
`kwok` (a real control plane, nodes and pods that exist only in the API server), `api` (the control plane alone; asked for).
"""
