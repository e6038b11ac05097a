import json
import os
import shutil
import threading
from concurrent.futures import CancelledError, Future

import pytest

from fewshot_lib.course import sweeps
from fewshot_lib.course.sweeps import points, sweep
from fewshot_lib.course.sweeps.points import read_all


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(inline, lines):
    return lambda planned, **options: sweeps.run(
        planned, options.pop("executor", inline), say=lines.append, **options
    )


def test_a_finished_point_is_a_folder_with_everything(planned, run, no_kernel, tmp_path):
    (point,) = planned(seed=[3])
    assert run([point])
    folder = tmp_path / "out" / "points" / point.key
    assert sorted(p.name for p in folder.iterdir()) == ["01_tiny.html", "01_tiny.ipynb", "point.json"]
    facts = json.loads((folder / "point.json").read_text())
    assert facts["parameters"]["seed"] == 3 and facts["versions"] == points.versions()
    assert facts["seconds"] == 2.0 and facts["peak_memory"] == 10**8 and facts["failure"] == ""
    assert len(facts["rows"]) == 1 and facts["threads"] == 1 and "revision" in facts
    stamp = json.loads((folder / "01_tiny.ipynb").read_text())["metadata"]["fewshot_run"]
    assert stamp["parameters"] == facts["parameters"] and stamp["versions"] == facts["versions"]


def test_two_sweeps_run_what_they_have_in_common_once(planned, run, no_kernel, lines):
    assert run(planned(seed=[0, 1])) and run(planned(seed=[1, 2]))
    assert len(no_kernel) == 3 and len(read_all(sweep.out_of(planned(seed=[0])))) == 3
    assert lines[-1].startswith("2 of 2 points are done.")


def test_a_failure_stops_nothing_is_named_and_is_retried_only_when_asked(planned, run, no_kernel, lines):
    made = planned(seed=[0, 99, 1])
    assert not run(made)
    assert any("seed=99: FAILED" in line for line in lines) and "[3/3]" in lines[-4]
    assert lines[-1] == "  01_tiny seed=99: cell 3, under 'Tiny', at `x`: RuntimeError: on purpose"
    assert not run(made) and len(no_kernel) == 3
    assert not run(made, retry=True) and len(no_kernel) == 4
    page = (sweep.out_of(made) / "sweep.html").read_text()
    assert "2 done, 1 failed, 0 waiting" in page and "RuntimeError: on purpose" in page
    assert f'href="points/{made[0].key}/01_tiny.html"' in page and "refresh" not in page


def test_half_a_folder_is_no_point_and_leftovers_go(planned, run, no_kernel, tmp_path):
    made = planned(seed=[0, 1, 2, 3])
    places = [tmp_path / "out" / "points" / point.key for point in made]
    places[0].mkdir(parents=True)  # as Snakemake makes it
    places[1].mkdir()
    (places[1] / "point.json").write_text("")  # after a loss of power
    left = places[2].with_name(f".{made[2].key}.ab.part")
    left.mkdir()  # by a worker that was killed
    assert run(made) and len(no_kernel) == 4
    assert len(read_all(tmp_path / "out")) == 4 and not left.exists()


def test_of_two_workers_at_the_same_point_the_first_counts(planned, no_kernel, tmp_path, monkeypatch):
    (point,) = planned(seed=[0])
    execute = points.execute

    def slower(*args, **kwargs):
        monkeypatch.setattr(points, "execute", execute)
        first.append(points.run_point(point))
        return execute(*args, **kwargs)

    first = []
    monkeypatch.setattr(points, "execute", slower)
    assert points.run_point(point) == first[0] and not first[0].stop
    assert [path.name for path in (tmp_path / "out" / "points").iterdir()] == [point.key]


def test_a_full_disk_is_one_sentence_and_costs_nothing(planned, run, no_kernel, tmp_path, monkeypatch):
    made = planned(seed=range(3))
    assert run(made[:1])
    with monkeypatch.context() as full:
        full.setattr(
            points, "_write", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        sentence = (
            r"could not write .*\(No space left on device\)\. Free some space, or use .* 2 points left\.$"
        )
        with pytest.raises(OSError, match=sentence):
            run(made)
    assert [p.name for p in (tmp_path / "out" / "points").iterdir()] == [made[0].key]
    assert run(made) and len(read_all(tmp_path / "out")) == 3


def test_a_worker_with_another_library_or_disk_runs_nothing(planned, run, no_kernel, tmp_path, monkeypatch):
    made = planned(seed=range(3))
    with monkeypatch.context() as older:
        older.setattr(points, "versions", lambda: {**made[0].versions, "torch": "1.0"})
        with pytest.raises(
            OSError, match=r"cannot run this sweep: torch is 1\.0 there, and was 2.* install the same"
        ):
            run(made)
    shutil.rmtree(tmp_path / "notebooks")
    with pytest.raises(OSError, match="does not see .*notebooks; all workers must share that disk"):
        run(made)
    assert not no_kernel


class Broken:
    """An executor whose workers die, or lack the library, as engines say it."""

    def __init__(self, error):
        self.error = error

    def submit(self, function, *arguments):
        future = Future()
        future.set_exception(self.error)
        return future


def test_a_worker_without_the_package_is_one_sentence(planned, run):
    for error in (
        ModuleNotFoundError("No module named 'fewshot_lib'"),
        RuntimeError("Job 1 failed\nTraceback:\nNo module named 'fewshot_lib.course.sweeps'\n"),
    ):
        with pytest.raises(
            OSError, match="workers have no package fewshot_lib: install it where the workers run"
        ):
            run(planned(seed=[0]), executor=Broken(error))


def test_what_a_dead_worker_had_is_lost_said_and_run_again(planned, run, no_kernel, lines):
    made = planned(seed=[0, 1])
    assert not run(made, executor=Broken(CancelledError("worker died")))
    assert lines[-3] == "2 were lost; the same command runs them again:"
    assert lines[-1] == "  01_tiny seed=1: CancelledError: worker died"
    assert "2 lost" in (sweep.out_of(made) / "sweep.html").read_text()
    assert run(made) and len(no_kernel) == 2


class Interrupted:
    """An executor during which somebody presses Ctrl-C once a point is through."""

    def __init__(self, inline):
        self.inline, self.futures = inline, []

    def submit(self, *arguments):
        future = Future() if self.futures else self.inline.submit(*arguments)
        if self.futures:
            future.done = self.press
        self.futures.append(future)
        return future

    def press(self):
        raise KeyboardInterrupt


def test_ctrl_c_cancels_the_rest_and_leaves_a_state_that_goes_on(planned, run, inline, no_kernel):
    made, executor = planned(seed=range(3)), Interrupted(inline)
    with pytest.raises(KeyboardInterrupt, match="Stopped after 0 of 3 points; the same command goes on"):
        run(made, executor=executor)
    assert [future.cancelled() for future in executor.futures] == [False, True, True]
    assert "waiting" in (sweep.out_of(made) / "sweep.html").read_text()
    assert run(made) and len(no_kernel) == 3


def test_the_time_left_follows_the_pace(planned, inline, no_kernel, lines):
    made = planned(seed=range(3))
    assert sweep.seconds_of(made, {}) is None
    report = sweep.Report(made, made, lines.append)
    report.begin -= 10
    facts = {"notebook": "01_tiny", "seconds": 20.0, "failure": "", "parameters": {}, "peak_memory": 0}
    report.ended(made[0], facts)  # 20 s of computing in 10 s: two at a time
    assert lines[-1] == "[1/3] 01_tiny seed=0: ok, 20 s, about 20 s left"


@pytest.mark.skipif(os.name == "nt", reason="a thread that waits")
def test_local_kernels_run_so_many_at_a_time_and_wait_for_memory(monkeypatch):
    import psutil

    running, most, enough = [], [], threading.Event()

    def point(name, stopped):
        running.append(name)
        most.append(len(running))
        enough.wait(10)
        running.remove(name)
        return points.Ended({"peak_memory": 1})

    memory = type("Memory", (), {"available": 0})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with sweeps.LocalKernels(3) as executor:
        futures = [executor.submit(point, name) for name in range(4)]
        enough.set()
        assert all(future.result().facts for future in futures)
    assert max(most) == 1  # there was never memory for a second
