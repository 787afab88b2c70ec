"""A real Kubernetes for tests: API server, scheduler, controllers, GPU nodes and a Gateway as plain processes."""

from cluster.run import Cluster, ClusterUnavailableError

__all__ = ["Cluster", "ClusterUnavailableError"]
