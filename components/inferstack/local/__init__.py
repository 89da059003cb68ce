"""An environment on one machine: the shape of a cluster out of plain processes (Envoy, Valkey, a runtime per slot)."""
