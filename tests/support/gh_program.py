"""A `gh` for workflows under test.

Attestations are asked for at the real registry and checked by a real cosign, with the key that stands for the workflow
that may sign; environments and artifacts are those that a test configured.
"""

from __future__ import annotations

from pathlib import Path

# `attestation verify oci://IMAGE --repo … --signer-workflow … --predicate-type TYPE`: image and type are looked at.
_TEXT = """#!/bin/sh
echo "$@" >> "$STAND_IN_CALLS/gh"
case "$1 $2" in
  "release view") exit 1 ;;
  "attestation verify")
    image="${3#oci://}" type=
    while [ $# -gt 0 ]; do [ "$1" = --predicate-type ] && type="$2"; shift; done
    "$STAND_IN_COSIGN" verify-attestation --key "$STAND_IN_SIGNER" --insecure-ignore-tlog=true --type "$type" \\
      --allow-http-registry --allow-insecure-registry "$image" > /dev/null ;;
  "api repos/"*/actions/artifacts\\?*)
    [ -z "$GH_ARTIFACTS" ] && echo '{"artifacts": []}' || cat "$GH_ARTIFACTS/list.json" ;;
  "api repos/"*/actions/artifacts/*/zip) id="${2%/zip}"; cat "$GH_ARTIFACTS/${id##*/}.zip" ;;
  "api repos/"*/environments/*)
    case " $GH_ENVIRONMENTS " in
      *" ${2##*/}:reviewed "*) echo "required_reviewers branch_policy" ;;
      *" ${2##*/} "*) ;;
      *) echo "Not Found (HTTP 404)" >&2; exit 1 ;;
    esac ;;
esac
"""


def write_gh(folder: Path) -> None:
    """Put the program into a folder."""
    (folder / "gh").write_text(_TEXT, "utf-8")
    (folder / "gh").chmod(0o755)
