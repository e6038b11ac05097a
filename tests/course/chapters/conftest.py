"""What the tests of chapters share."""

import importlib

import pytest


@pytest.fixture
def shown(request, monkeypatch):
    """What the chapter of this test file shows and says: figures with their words, and texts."""
    name = request.module.__name__.rpartition("test_")[2]
    chapter, found = importlib.import_module(f"fewshot_lib.course.chapters.{name}"), []
    monkeypatch.setattr(chapter, "show", lambda fig, **words: found.append((fig, words)))
    monkeypatch.setattr(chapter, "say", found.append, raising=False)
    return found
