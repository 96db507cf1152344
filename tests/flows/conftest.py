"""What the flow tests share: a Prefect server for flows in the test process, and one undisturbed run in another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows import tiny


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Flows run against a temporary server with its own database. Mark such tests with ``flow``."""
    from flows import prefect_settings  # noqa: F401  (sets the environment before Prefect is imported)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=60):
            yield


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[tiny.Workshop]:
    """The tiny config with its data, a PREFECT_HOME and a server, for real runs."""
    from prefect.settings import PREFECT_API_URL

    folder: Path = tmp_path_factory.mktemp("tiny")
    workshop = tiny.Workshop(tiny.write_config(folder / "data"), folder, str(PREFECT_API_URL.value()))
    yield workshop
    workshop.close()


@pytest.fixture(scope="session")
def undisturbed(workshop: tiny.Workshop) -> tiny.Run:
    """The tiny config, run once from start to end in a store of its own, with a server of its own."""
    return workshop.start("undisturbed", embedded=True).wait()
