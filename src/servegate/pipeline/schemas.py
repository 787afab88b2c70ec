"""All published JSON Schemas. They are generated from the models, so they cannot disagree with them."""

from __future__ import annotations

import json

from pydantic import BaseModel

from servegate.evals.item import Item
from servegate.evals.suite import SuiteConfig
from servegate.gates.audit import AuditLine
from servegate.gates.baseline import Blessing
from servegate.gates.policy import Policy
from servegate.gates.statement import Attested
from servegate.gates.trust import Trust
from servegate.gates.verify import Verification
from servegate.loadtest.profile import Profile
from servegate.pipeline.drill import Drill
from servegate.pipeline.site import ClusterSite, MachineSite
from servegate.release import Release
from servegate.report.model import Report
from servegate.report.records import CanaryTick, EvalRecord, RequestRecord
from servegate.report.verdict import Verdict
from servegate.rollout.audit import AuditTick
from servegate.rollout.plan import Plan
from servegate.rollout.sources.prometheus_config import PrometheusConfig
from servegate.rollout.traffic import Traffic

MODELS: dict[str, type[BaseModel]] = {
    "release": Release,
    "report": Report,
    "verdict": Verdict,
    "eval-record": EvalRecord,
    "request-record": RequestRecord,
    "canary-tick": CanaryTick,
    "audit-tick": AuditTick,
    "suite": SuiteConfig,
    "item": Item,
    "profile": Profile,
    "policy": Policy,
    "baseline": Blessing,
    "attested-verdict": Attested,
    "trust": Trust,
    "verification": Verification,
    "audit-line": AuditLine,
    "plan": Plan,
    "prometheus": PrometheusConfig,
    "traffic": Traffic,
    "drill": Drill,
    "site": MachineSite,
    "cluster-site": ClusterSite,
}


def rendered() -> dict[str, str]:
    """Schema text per name, each a whole file."""
    return {name: _render(name, model) for name, model in MODELS.items()}


def _render(name: str, model: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **model.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
