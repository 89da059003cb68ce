"""What the tests on a real cluster share: manifests of an environment, a slot's deployment, streaming load."""
