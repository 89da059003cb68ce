"""Two slots of the real runtime under varied load, scraped by a real Prometheus with the project's rules."""
