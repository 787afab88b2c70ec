"""Signs the demo's verdicts with a key that lives as long as the demo, and says whose verdicts count there."""

from __future__ import annotations

from pathlib import Path

import yaml

from servegate.contract import write_atomic
from servegate.gates import bundle
from servegate.gates.statement import predicate, statement
from servegate.gates.trust import load_trust
from servegate.pipeline.verdicts import Verdicts, files
from servegate.release import Release
from servegate.report.verdict import Verdict

BY = "servegate demo"


class Desk:
    """Where verdicts are signed.

    Args:
        root: folder of the demo; it gets `trust.yaml` and the public key.

    Raises:
        ConfigError: the package for keys is missing.
        InfrastructureError: the folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._key = bundle.new_key()
        write_atomic(root / "verdicts.pub", bundle.public_pem(self._key))
        document = {"version": 1, "name": "demo", "signers": [{"name": BY, "key": "verdicts.pub"}], "max_age": "1h"}
        write_atomic(root / "trust.yaml", yaml.safe_dump(document, sort_keys=False).encode())
        self._trust = load_trust(root / "trust.yaml")

    def sign(self, verdict: Verdict, release: Release, path: Path) -> Verdicts:
        """Sign a verdict on a release into a file; the verdicts that count, found there."""
        attested = predicate(verdict, release, drill=None, now=verdict.decided_at, by=BY)
        write_atomic(path, bundle.signed(statement(attested, release), self._key))
        return Verdicts(self._trust, files([path]))
