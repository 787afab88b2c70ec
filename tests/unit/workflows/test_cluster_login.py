"""The login to a cluster: a token of the job, asked anew each time, and the command lines of three clouds."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ACTION = Path(__file__).parents[3] / ".github/actions/cluster"
CLOUD = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  *assume-role*) echo '{"Credentials": {"AccessKeyId": "id", "SecretAccessKey": "key", "SessionToken": "session"}}' ;;
esac
"""


class Issuer(BaseHTTPRequestHandler):
    """GitHub's, for a job that may ask."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        allowed = self.headers["Authorization"] == "bearer the-right-to-ask"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"value": f"token-{len(self.asked)}"}).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (Issuer,), {"asked": []}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("aws", "gcloud", "az", "kubelogin"):
        (tmp_path / name).write_text(CLOUD, "utf-8")
        (tmp_path / name).chmod(0o755)
    unset = dict.fromkeys(("CLUSTER", "LOCATION", "IDENTITY", "ACCOUNT", "AUTHORITY", "AUDIENCE"), "")
    yield {
        **os.environ,
        **unset,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_port}/token?api-version=2",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-right-to-ask",
    }
    server.shutdown()
    thread.join()
    server.server_close()


def log_in(job: dict[str, str], **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ACTION / "login.sh")], env={**job, **settings}, capture_output=True, text=True, check=False
    )


def token(job: dict[str, str], command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, env=job, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_kubectl_asks_for_a_token_each_time(job: dict[str, str], tmp_path: Path) -> None:
    done = log_in(job, LOGIN="oidc", CLUSTER="https://api.example:6443", AUTHORITY="Y2E=")
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text("utf-8"))
    assert config["clusters"][0]["cluster"] == {
        "server": "https://api.example:6443",
        "certificate-authority-data": "Y2E=",
    }
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0
    plugin = config["users"][0]["user"]["exec"]
    command = [plugin["command"], *plugin["args"]]
    first, second = token(job, command), token(job, command)
    assert (first["kind"], first["status"]["token"]) == ("ExecCredential", "token-1")
    assert second["status"]["token"] == "token-2"
    assert "the-right-to-ask" not in (tmp_path / "kubeconfig").read_text("utf-8")


@pytest.mark.parametrize(
    ("login", "wanted"),
    [
        ("aws", ["aws sts assume-role-with-web-identity --role-arn who", "aws eks update-kubeconfig --name mine"]),
        (
            "google",
            [
                "gcloud iam workload-identity-pools create-cred-config who --service-account=acc",
                "gcloud container clusters get-credentials mine --location=where",
            ],
        ),
        ("azure", ["az login --service-principal --username who --tenant acc", "az aks get-credentials --name mine"]),
    ],
)
def test_the_clouds_are_asked_with_the_token_of_the_job(
    job: dict[str, str], tmp_path: Path, login: str, wanted: list[str]
) -> None:
    done = log_in(job, LOGIN=login, CLUSTER="mine", LOCATION="where", IDENTITY="who", ACCOUNT="acc")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text("utf-8").splitlines()
    assert all(any(call.startswith(line) for call in calls) for line in wanted), calls
    assert not (tmp_path / "aws.json").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"LOGIN": "oidc", "CLUSTER": "x", "ACTIONS_ID_TOKEN_REQUEST_URL": ""}, "needs the permission id-token: write"),
        ({"LOGIN": "oidc"}, "set the variable SERVEGATE_CLUSTER"),
        ({"LOGIN": "oidc", "CLUSTER": "http://x"}, "must be the https:// address"),
        ({"LOGIN": "password", "CLUSTER": "x"}, "must be oidc, aws, google or azure"),
    ],
)
def test_what_is_missing_is_told(job: dict[str, str], settings: dict[str, str], said: str) -> None:
    done = log_in(job, **settings)
    assert done.returncode == 2
    assert said in done.stdout


def test_a_job_that_may_not_ask_gets_no_cluster(job: dict[str, str]) -> None:
    job["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "another"
    done = log_in(job, LOGIN="aws", CLUSTER="mine", IDENTITY="who", LOCATION="where")
    assert done.returncode != 0
    assert "401" in done.stderr
