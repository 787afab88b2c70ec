"""Gates: policy + reports → verdict.

from servegate.gates import Policy, evaluate
"""

from servegate.gates.evaluate import evaluate
from servegate.gates.policy import Policy

__all__ = ["Policy", "evaluate"]
