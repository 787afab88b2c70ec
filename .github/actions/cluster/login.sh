#!/usr/bin/env bash
# Writes $RUNNER_TEMP/kubeconfig for the identity of the running job. Called by action.yml with its inputs as variables.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export KUBECONFIG="$RUNNER_TEMP/kubeconfig"
umask 077

wrong() {
  echo "::error title=servegate::$1"
  exit 2
}

[ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ] || wrong "no identity: the job needs the permission id-token: write"
[ -n "$CLUSTER" ] || wrong "no cluster is named: set the variable SERVEGATE_CLUSTER"

case "$LOGIN" in
  oidc)
    audience="${AUDIENCE:-kubernetes}"
    [[ "$CLUSTER" == https://* ]] || wrong "SERVEGATE_CLUSTER must be the https:// address of the API server"
    # A token lives for minutes, a rollout for hours: each command fetches its own when it needs one.
    jq --null-input --arg server "$CLUSTER" --arg ca "$AUTHORITY" --arg plugin "$here/token.sh" --arg audience "$audience" '{
      apiVersion: "v1", kind: "Config", "current-context": "servegate",
      clusters: [{name: "servegate", cluster: ({server: $server} + if $ca == "" then {} else {"certificate-authority-data": $ca} end)}],
      contexts: [{name: "servegate", context: {cluster: "servegate", user: "servegate"}}],
      users: [{name: "servegate", user: {exec: {apiVersion: "client.authentication.k8s.io/v1", command: $plugin,
        args: [$audience], interactiveMode: "Never"}}}]}' > "$KUBECONFIG"
    ;;
  aws)
    token="$("$here/token.sh" "${AUDIENCE:-sts.amazonaws.com}" | jq --raw-output .status.token)"
    aws sts assume-role-with-web-identity --role-arn "$IDENTITY" --role-session-name "servegate-${GITHUB_RUN_ID:-0}" \
      --web-identity-token "$token" --region "$LOCATION" --output json > "$RUNNER_TEMP/aws.json"
    aws configure set region "$LOCATION"
    aws configure set aws_access_key_id "$(jq --raw-output .Credentials.AccessKeyId "$RUNNER_TEMP/aws.json")"
    aws configure set aws_secret_access_key "$(jq --raw-output .Credentials.SecretAccessKey "$RUNNER_TEMP/aws.json")"
    aws configure set aws_session_token "$(jq --raw-output .Credentials.SessionToken "$RUNNER_TEMP/aws.json")"
    rm "$RUNNER_TEMP/aws.json"
    aws eks update-kubeconfig --name "$CLUSTER" --region "$LOCATION" --kubeconfig "$KUBECONFIG"
    ;;
  google)
    # gcloud fetches the job's token itself, anew when it has ended.
    audience="${AUDIENCE:-https://iam.googleapis.com/$IDENTITY}"
    gcloud iam workload-identity-pools create-cred-config "$IDENTITY" --service-account="$ACCOUNT" \
      --credential-source-url="$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$audience" \
      --credential-source-headers="Authorization=bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" \
      --credential-source-type=json --credential-source-field-name=value --output-file="$RUNNER_TEMP/google.json"
    gcloud auth login --quiet --cred-file="$RUNNER_TEMP/google.json"
    gcloud container clusters get-credentials "$CLUSTER" --location="$LOCATION"
    ;;
  azure)
    token="$("$here/token.sh" "${AUDIENCE:-api://AzureADTokenExchange}" | jq --raw-output .status.token)"
    az login --service-principal --username "$IDENTITY" --tenant "$ACCOUNT" --federated-token "$token" --output none
    az aks get-credentials --name "$CLUSTER" --resource-group "$LOCATION" --file "$KUBECONFIG"
    kubelogin convert-kubeconfig --login azurecli --kubeconfig "$KUBECONFIG"
    ;;
  *) wrong "SERVEGATE_LOGIN must be oidc, aws, google or azure" ;;
esac
