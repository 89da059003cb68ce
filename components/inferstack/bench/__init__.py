"""Benchmarks of OpenAI-compatible servers: workloads, a frugal streaming client, load shapes, summaries, and peers to compare with."""
