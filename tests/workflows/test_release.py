"""A tag on its whole way: image, staging, verdict, production, GitHub release. Real images, engines, Envoy and users."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from act import Ran, Repository
from terminals import Site, site_in

pytestmark = pytest.mark.timeout(590)

RELEASER = """
name: Releaser
on: [push]
permissions: {{}}
jobs:
  release:
    name: Release
    uses: ./.github/workflows/release.yml
    permissions:
      actions: read
      contents: write
      packages: write
      id-token: write
      attestations: write
    with:
      release: {release}
      image-name: {registry}/team/chat
      image-base: {base}
      image-builder: buildah
      image-min-free: "1"
      staging-overlay: ""
      staging-namespace: ""
      staging-site: {folder}/site.yaml
      site: {folder}/site.yaml
      store: {store}
      plan: {folder}/plan.yaml
      stable: {folder}/v1.json
      mode: runner
      suite: smoke-suite.yaml
      profile: smoke-profile.yaml
      policy: smoke-policy.yaml
      trust: smoke-trust.yaml
"""
SUITE = """
version: 1
name: quick
dataset: quick.jsonl
scorers: [{kind: exact}]
generation: {max_tokens: 8}
"""
POLICY = """
version: 1
name: quick
require: [{report: smoke}, {report: eval}, {report: load}]
checks:
  - {id: smoke, report: smoke, no_findings: error}
  - {id: answers, report: eval, expect: error_rate <= 50%, judge: value}
  - {id: errors, report: load, expect: error_rate <= 5%, judge: value}
"""


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site_in(tmp_path_factory.mktemp("s"))
