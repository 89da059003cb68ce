"""Google Kubernetes Engine: cluster, GPU pools, managed cache, weights and images."""
