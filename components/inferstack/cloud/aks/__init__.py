"""Azure Kubernetes Service: cluster, GPU pools, managed cache, weights and images."""
