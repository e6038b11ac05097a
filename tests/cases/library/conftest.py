"""An encoder of texts, a cache of one's own, and no progress bar."""

import pytest

from fewshot_lib.encoders import TextEncoder


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder()
