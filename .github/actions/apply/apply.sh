#!/usr/bin/env bash
# Renders $OVERLAY to out/manifests.yaml and applies it. Called by action.yml.
set -euo pipefail
work="$(mktemp --directory --tmpdir="${RUNNER_TEMP:-/tmp}")"
trap 'rm -rf "$work"' EXIT
kube=(kubectl --request-timeout=30s)
mkdir -p out

wrong() {
  echo "::error title=servegate::$1"
  exit 2
}

[ -f "$OVERLAY/kustomization.yaml" ] || wrong "there is no overlay in that folder: kustomization.yaml is missing"
kubectl kustomize "$OVERLAY" > out/manifests.yaml
# A tag moves; what is applied is what was looked at.
if loose="$(grep -E '^ *(- )?image: ' out/manifests.yaml | grep -vE '@sha256:[0-9a-f]{64}"?$')"; then
  wrong "an image is not named by its digest: $(head -1 <<< "$loose" | sed 's/^ *//; s/::/: :/g' | cut -c1-200)"
fi

# The objects of a rollout that are there already: their fields of the rollout are applied as they are, so that Git
# neither takes them back nor is refused for trying. A change in between is a conflict, and nothing is lost.
"${kube[@]}" create --dry-run=client --output=json --filename=out/manifests.yaml |
  jq --raw-output 'if .kind == "List" then .items[] else . end
    | select(.kind == "Deployment" or .kind == "HTTPRoute")
    | select(.kind == "HTTPRoute" or ((.metadata.labels // {}) | has("servegate.dev/slot"))
        or ((.spec.template.metadata.labels // {}) | has("servegate.dev/slot")))
    | [.kind, .metadata.namespace // "default", .metadata.name] | @tsv' > "$work/owned"
cp out/manifests.yaml "$work/all.yaml"
printf 'resources: [all.yaml]\npatches:\n' > "$work/kustomization.yaml"
while IFS=$'\t' read -r kind namespace name; do
  live="$("${kube[@]}" get "$kind" "$name" --namespace "$namespace" --ignore-not-found --output=json)"
  [ -n "$live" ] || continue
  jq --compact-output '{target: {kind: .kind, name: .metadata.name}, patch: (
    if .kind == "Deployment" then
      [{op: "replace", path: "/spec/replicas", value: .spec.replicas},
       {op: "replace", path: "/spec/template/spec/containers/0/image", value: .spec.template.spec.containers[0].image}]
    else
      [.spec.rules | to_entries[] | {op: "replace", path: "/spec/rules/\(.key)/backendRefs", value: .value.backendRefs}]
    end | tojson)}' <<< "$live" | sed 's/^/  - /' >> "$work/kustomization.yaml"
done < "$work/owned"
grep --quiet '^  - ' "$work/kustomization.yaml" || echo '  []' >> "$work/kustomization.yaml"
kubectl kustomize "$work" > "$work/apply.yaml"
"${kube[@]}" apply --server-side --field-manager=git --filename="$work/apply.yaml"
