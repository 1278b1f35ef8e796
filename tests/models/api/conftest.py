"""A provider on the loopback."""

import pytest

from support.provider_server import KEY, KEY_VARIABLE, ProviderServer


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server = ProviderServer()
    yield server
    server.close()
