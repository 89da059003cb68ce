"""Build of the package; the CPU kernels are compiled here."""

from setuptools import setup

setup()
