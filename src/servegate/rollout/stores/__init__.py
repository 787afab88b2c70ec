"""Stores: each remembers a rollout in one place."""
