"""Sources: each reads the counters of every pod in one way."""
