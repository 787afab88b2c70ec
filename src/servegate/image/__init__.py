"""Builds the serving image: one job, two back ends, the disk looked at first."""
