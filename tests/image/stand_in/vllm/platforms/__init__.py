"""A build machine has no GPU: vLLM does not know its device there."""

from types import SimpleNamespace

current_platform = SimpleNamespace(device_type="")
