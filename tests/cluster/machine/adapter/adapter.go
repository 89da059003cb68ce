//go:build pinned

// Package adapter pins the Prometheus adapter, apart from the machine's programs because it is made for an older Kubernetes library.
package adapter

import _ "sigs.k8s.io/prometheus-adapter/cmd/adapter"
