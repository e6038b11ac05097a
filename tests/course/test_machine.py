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
    assert "GB free" in detailed and " free;" not in plain
    assert len(plain.splitlines()) == len(detailed.splitlines())


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    assert not machine.report(detailed=False)
    out = capsys.readouterr().out
    assert "! a cache that can be written. Set FEWSHOT_CACHE" in out and "may stop a notebook" in out


def test_a_package_that_is_not_as_pinned_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PACKAGE_ROOT", tmp_path)
    installed = machine._version("torch")
    pins = f"# pins\ntorch=={installed}\nnumpy==0.1\nno-such-package==3\n"
    (tmp_path / "requirements.txt").write_text(pins)
    finding = machine._pins()
    assert not finding.ok and "torch" not in finding.detail
    assert "not 0.1" in finding.detail and "no-such-package is missing" in finding.detail
    (tmp_path / "requirements.txt").write_text(f"torch=={installed}\n")
    assert machine._pins().ok
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"{installed}+cpu")
    assert machine._pins().ok, "a version is compared without its build"


def test_missing_weights_are_found(monkeypatch, capsys):
    assert machine._encoder().ok
    monkeypatch.setattr(machine, "ENCODER_PACKAGE", "no-such-package")
    finding = machine._encoder()
    assert not finding.ok and "no-such-package is missing" in finding.detail
    course.check_machine()
    assert f"! {finding.name}. {finding.advice}" in capsys.readouterr().out
