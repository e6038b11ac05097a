import pytest

from fewshot_lib import course
from fewshot_lib.course import machine


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))


def test_the_notebook_form_shows_nothing_that_differs_between_machines(capsys, tmp_path):
    assert course.check_machine() is None  # a value would show below the lines in a notebook
    plain = capsys.readouterr().out
    machine.report(detailed=True)
    detailed = capsys.readouterr().out
    assert str(tmp_path) in detailed and str(tmp_path) not in plain
    assert "GB free" in detailed and " free;" not in plain and len(plain.splitlines()) == len(detailed.splitlines())


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    assert not machine.report(detailed=False)
    out = capsys.readouterr().out
    assert "! a cache that can be written. Set FEWSHOT_CACHE" in out and "may stop a notebook" in out


def test_a_package_that_is_not_as_pinned_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PACKAGE_ROOT", tmp_path)
    installed = machine._version("torch")
    (tmp_path / "requirements.txt").write_text(f"# pins\ntorch=={installed}\nnumpy==0.1\nno-such-package==3\n")
    finding = machine._pins()
    assert not finding.ok and "torch" not in finding.detail
    assert "not 0.1" in finding.detail and "no-such-package is missing" in finding.detail
    (tmp_path / "requirements.txt").write_text(f"torch=={installed}\n")
    assert machine._pins().ok


def test_a_version_is_compared_without_its_build(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0+cpu")
    assert machine._version("torch") == "2.13.0"


def test_missing_weights_are_found(monkeypatch):
    monkeypatch.setattr(machine, "ENCODER_PACKAGE", "no-such-package")
    finding = machine._encoder()
    assert not finding.ok and "no-such-package is missing" in finding.detail and "! " in finding.line(detailed=False)
