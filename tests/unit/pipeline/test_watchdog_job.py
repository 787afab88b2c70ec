"""A Job of the watchdog for somebody who may not touch traffic himself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_kube import FakeKube, RefusedError
from manifests import K8S

from servegate.errors import ConfigError
from servegate.pipeline.watchdog_job import start
from servegate.rollout.kube import Kube

JOBS = "/apis/batch/v1/namespaces/llm"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[FakeKube, Kube]]:
    fake = FakeKube()
    kube = Kube("llm", kubeconfig=fake.kubeconfig(tmp_path))
    yield fake, kube
    kube.close()
    fake.close()


def test_it_is_the_watchdogs_and_one_for_each_intent(api: tuple[FakeKube, Kube]) -> None:
    fake, kube = api
    shipped = yaml.safe_load((K8S / "components/watchdog/cron-job.yaml").read_text())
    fake.put(f"{JOBS}/cronjobs/servegate-watchdog", shipped)
    assert start(kube, 7) == "job servegate-watchdog-intent-7"
    made = fake.objects[f"{JOBS}/jobs/servegate-watchdog-intent-7"]
    assert made["spec"]["template"] == shipped["spec"]["jobTemplate"]["spec"]["template"]
    assert made["spec"]["ttlSecondsAfterFinished"] > 0
    assert start(kube, 7) == "job servegate-watchdog-intent-7"
    assert len([path for path in fake.objects if path.startswith(f"{JOBS}/jobs/")]) == 1


def test_a_watchdog_that_is_not_there_is_named(api: tuple[FakeKube, Kube]) -> None:
    with pytest.raises(ConfigError, match="no CronJob servegate-watchdog in llm: add components/watchdog"):
        start(api[1], 7)


def test_who_may_not_start_one_waits_for_the_watchdog_itself(api: tuple[FakeKube, Kube]) -> None:
    fake, kube = api

    def refuse(_method: str, _path: str) -> None:
        raise RefusedError(403, 'User "kim" cannot get resource "cronjobs"')

    fake.before = refuse
    said = start(kube, 7)
    assert 'User "kim" cannot get resource "cronjobs"' in said
    assert "the watchdog looks by itself every minute" in said
