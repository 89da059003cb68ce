"""The Kubernetes objects of slots and route as plain dictionaries. Pure: no Pulumi, no input or output.

The components of `serving` make Pulumi resources of them, `inferstack render` writes them as files, and a platform
adapter may apply them itself.
"""
