"""Engines: `load_model(...)` in engines/registry.py returns a LoadedModel."""
