"""The program of every environment: read it, check it, make the parts of its layer."""

from pathlib import Path

from inferstack.serving.stack import deploy

deploy(Path(__file__).parent)
