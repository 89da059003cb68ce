"""Hosts the components for programs in other languages: what `pulumi package add` runs."""

from importlib.metadata import version

from pulumi.provider.experimental import component_provider_host

import inferstack

if __name__ == "__main__":
    component_provider_host(
        components=[getattr(inferstack, name) for name in inferstack.COMPONENTS], name="inferstack", version=version("inferstack")
    )
