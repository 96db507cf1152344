"""The Prefect server of the flow tests: started once per session, only for tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Flows run against a temporary server with its own database. Mark such tests with ``flow``."""
    from flows import prefect_settings  # noqa: F401  (sets the environment before Prefect is imported)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=60):
            yield
