"""Engine metrics: Prometheus text, and what its names mean to us."""
