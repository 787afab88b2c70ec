"""A kubelet for tests: one real process per container, in a network namespace with the pod's address.

It does what a kubelet does to a server under test: environment, arguments and volumes as the manifest says, probes,
restarts with back-off, preStop, SIGTERM, the grace period, SIGKILL. It does not isolate: an image is a name for a
program of this machine, users and memory limits are not applied.
"""
