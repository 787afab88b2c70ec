"""Rollout: plan → observation → decision → effect."""
