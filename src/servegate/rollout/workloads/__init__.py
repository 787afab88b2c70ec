"""Workloads: each puts releases into slots in one place."""
