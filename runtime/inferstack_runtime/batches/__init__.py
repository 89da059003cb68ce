"""Batch jobs: files of requests that are answered in the background and survive a restart."""
