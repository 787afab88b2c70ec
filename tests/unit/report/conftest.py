"""The samples of tests/support, as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from report_samples import HOSTILE, make_compared, make_ended, make_reports, make_verdict
from story_samples import make_stories

from servegate.report.backing import Backing
from servegate.report.model import Report
from servegate.report.story import ReleaseStory
from servegate.report.verdict import Verdict


@pytest.fixture(scope="session")
def stories() -> list[ReleaseStory]:
    return make_stories()


@pytest.fixture(scope="session")
def verdict() -> Callable[..., Verdict]:
    return make_verdict


@pytest.fixture(scope="session")
def compared() -> Callable[..., tuple[Verdict, Backing]]:
    return make_compared


@pytest.fixture(scope="session")
def reports() -> tuple[Report, ...]:
    return make_reports("v1.2.0")


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def hostile(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture
def ended() -> Callable[[str], Report]:
    return make_ended
