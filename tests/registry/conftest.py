"""A real registry and a real cosign; the program is built once from the Go module proxy and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import registry_server
from image_base import go_tools
from registry_desk import Desk


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry_server.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="session")
def cosign() -> str:
    return str(go_tools(Path(__file__).parent / "tools") / "cosign")


@pytest.fixture
def desk(tmp_path: Path, registry: str, cosign: str) -> Desk:
    desk = Desk(tmp_path, registry, cosign)
    desk.made("generate-key-pair")
    return desk
