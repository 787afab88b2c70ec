"""Routers: each moves traffic between slots on one kind of data plane."""
