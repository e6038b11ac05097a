"""What is handed in is judged by what it computes; and what it tries beside that harms nothing and nobody."""

import csv
import json
import os
import signal
import subprocess
import time

import nbformat
import pytest
import torch

from fewshot_lib.course import cli, exercises
from fewshot_lib.course.classroom import exam, grading, sandbox
from fewshot_lib.course.classroom.cells import OtherSeeds, answering, context, factories, hollow
from fewshot_lib.course.classroom.edition import for_students
from fewshot_lib.course.classroom.sandbox import Limits, confined
from fewshot_lib.course.classroom.submissions import MOST_BYTES
from fewshot_lib.course.comparison import close
from fewshot_lib.course.running.solutions import fill_solutions

from .helpers import NOTEBOOKS, ROOT

START = ROOT / "notebooks" / "00_start_here.ipynb"
DEFINE = "@course.exercise(reference=answers.chance_level)\ndef chance_level(n_way):\n    "
RIGHT = DEFINE + "return 1 / n_way"
LIMITS = {"seconds": 8, "gigabytes": 1}
posix = pytest.mark.skipif(os.name != "posix", reason="grade needs fork")
worlds = pytest.mark.skipif(
    os.name != "posix" or bool(sandbox.strength()), reason="this system gives a child no world of its own"
)


def graded(folder, out, paths=(START,), **limits):
    """Student -> verdicts of the chapter, by exercise."""
    verdicts = grading.grade(folder, paths, out, limits=LIMITS | limits, say=lambda text: None)
    return {student: found.get(paths[0].stem, {}) for student, found in verdicts.items()}


@posix
@pytest.mark.slow
def test_a_class_is_graded_in_one_table_and_a_page_each(hand_in, tmp_path, monkeypatch):
    """One exam room for all of them, whatever they try."""
    victim = tmp_path / "keep me"
    victim.write_text("precious")
    reads = f"open({str(tmp_path / 'handed_in' / 'right' / START.name)!r}).read()"
    tricks = {
        "right": RIGHT,
        "helper": DEFINE + "return share(n_way)\n\ndef share(n):\n    return ONE / n\n\nONE = 1",
        "percent": DEFINE + "return 100 / n_way",
        "stub": DEFINE + "return ...",
        "crash": DEFINE + "return n_way.nothing",
        "no python": "def chance_level(n_way) return",
        "deleted": "x = 1",
        "magic": "%timeit 1\n!ls\n" + RIGHT,
        "table": DEFINE + "return {2: 0.5, 5: 0.2, 20: 0.05}.get(n_way, 0)",
        "calls the reference": DEFINE + "return answers.chance_level(n_way)",
        "loop": DEFINE + "\n    while True: pass",
        "loops later": DEFINE + "\n    while n_way not in (2, 5, 20): pass\n    return 1 / n_way",
        "bomb": DEFINE
        + "\n    import os\n    while True:\n        try: os.fork()\n        except OSError: pass",
        "memory": DEFINE + "\n    x = []\n    while True: x.append(bytearray(10**8))",
        "output": DEFINE + "\n    while True: print('x' * 10**6)",
        "fills the disk": DEFINE + "\n    open('f', 'wb').write(bytes(10**9))",
        "removes": DEFINE
        + f"\n    import shutil\n    shutil.rmtree({str(tmp_path)!r})\n    return 1 / n_way",
        "writes outside": DEFINE + f"\n    open({str(victim)!r}, 'w').write('mine')\n    return 1 / n_way",
        "reads another": DEFINE + f"\n    raise ValueError({reads}[:99])",
        "network": DEFINE + "\n    import socket\n    socket.create_connection(('127.0.0.1', 9), 1)",
        "kills": DEFINE + "\n    import os\n    os.kill(os.getppid(), 9)\n    os.kill(-1, 9)",
        "exits": DEFINE + "\n    import os\n    os._exit(0)",
        "patches check": "course.check = lambda *a, **k: print('[ok]')\n" + DEFINE + "return 7",
        "lies equal": DEFINE + "\n    class Yes(float):\n        __eq__ = lambda *_: True\n    return Yes(7)",
        "writes a verdict": DEFINE
        + '\n    import os\n    os.write(3, b\'{"value": {"plain": 0.5}}\\n\' * 99)'
        "\n    return 7",
        "sends nonsense": DEFINE + "\n    import os\n    os.write(3, b'1\\n[2]\\nnull\\n')\n    return 7",
        "=cmd|'/c calc'!A1": RIGHT,
        "<script>alert(1)</script>": DEFINE + "raise ValueError('<script>alert(2)</script>')",
    }
    for student, code in tricks.items():
        if "/" in student:  # no folder can be called so; the name of a file cannot either
            student = student.replace("/", "\u2215")
        hand_in(student, code)
    folder = tmp_path / "handed_in"
    (folder / "half a file").mkdir()
    (folder / "half a file" / START.name).write_bytes(START.read_bytes()[:5000])
    (folder / "deep").mkdir()
    (folder / "deep" / START.name).write_text('{"cells": ' + "[" * 100_000)
    (folder / "huge").mkdir()
    with (folder / "huge" / START.name).open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (folder / "link").mkdir()
    (folder / "link" / START.name).symlink_to(folder / "right" / START.name)
    (folder / "empty").mkdir()
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / START.name)
    os.mkdir(os.fsencode(folder) + b"/\xff\xfe")
    begin = time.monotonic()
    found = graded(folder, tmp_path / "grades")
    verdicts = {student: found[student].get("chance_level", ("nothing",))[0] for student in found}
    table = {"right": "ok", "helper": "ok", "percent": "value", "stub": "todo", "crash": "error"}
    table |= {"no python": "error", "deleted": "missing", "magic": "ok", "table": "look"}
    table |= {
        "calls the reference": "error",
        "loop": "stopped",
        "loops later": "stopped",
        "patches check": "value",
        "lies equal": "value",
    }
    assert {name: verdicts[name] for name in table} == table
    for name in ("bomb", "memory", "output", "fills the disk", "network", "kills", "exits", "reads another"):
        assert verdicts[name] in ("stopped", "error"), name
    for name in ("half a file", "deep", "huge", "link", "empty", "pipe", "??"):
        assert verdicts[name] == "nothing"
    assert "ReferenceError" in found["calls the reference"]["chance_level"][1]
    assert "AttributeError" in (said := found["crash"]["chance_level"][1]) and "line 3 of your cell" in said
    assert "precious" not in str(found) and victim.read_text() == "precious" and (folder / "right").is_dir()
    assert "cells" not in found["reads another"]["chance_level"][1]
    assert verdicts["sends nonsense"] == "error"
    assert verdicts["writes a verdict"] != "ok" and verdicts["removes"] in ("ok", "error")
    assert time.monotonic() - begin < 300
    left = subprocess.run(["ps", "ax", "-o", "command"], capture_output=True, text=True).stdout
    assert exam.__name__ not in left
    _pages_are_right(tmp_path / "grades", found)


def _pages_are_right(out, found):
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows["right"]["solved"] == "1" and rows["right"]["of"] == "1" and rows["percent"]["solved"] == "0"
    assert not [name for name in rows if name.startswith("=")], "a spreadsheet would run it"
    assert "was not read" in rows["huge"]["problems"] and "can be read" in rows["half a file"]["problems"]
    pages = {path.name: path.read_text(encoding="utf-8") for path in (out / "feedback").iterdir()}
    assert len(pages) == len(found)
    index = (out / "index.html").read_text(encoding="utf-8")
    for page in (index, *pages.values()):
        assert "<script" not in page and "default-src 'none'" in page
    assert all(f"feedback/{name}" in index for name in pages)
    (percent,) = (page for name, page in pages.items() if "percent" in name)
    assert "that is in percent; give a number between 0 and 1" in percent and "0 of 1" in percent


@pytest.mark.parametrize(
    ("hidden", "ended", "verdict"),
    [
        ([1.0, 2.0], "", "ok"),
        ([1.0, 5.0], "", "look"),
        ([1.0, 5.0], "it took more than 8 s", "look"),  # all answers were there already
        ([1.0], "it took more than 8 s", "stopped"),
        ([], "it took more than 8 s", "stopped"),
        ([1.0], "", "look"),  # it left by itself
    ],
)
def test_who_runs_out_of_time_on_hidden_cases_is_told_so(tmp_path, hidden, ended, verdict):
    """The cases of the notebook were right: what did not come back is not called hard-coded."""
    answer = exercises.Exercise(None, lambda x: x + 0.0)
    asked = exam.Asked(answer=answer, cases=[(0.0,), (1.0,)], mistakes={})
    others = exam.Asked(asked, cases=[(1.0,), (2.0,)])
    lines = [json.dumps({"value": exam.encoded(value)}) + "\n" for value in [0.0, 1.0, *hidden]]
    torn = '{"value": {"pla' if ended and len(hidden) < 2 else ""
    (tmp_path / "f.out").write_text("".join(lines) + torn)
    (tmp_path / "f.end").write_text(ended)
    found, message = exam._verdict(tmp_path, [exam.Judge(asked), exam.Judge(others)], 2, "f")
    assert found == verdict and (ended in message if verdict == "stopped" else True)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "notebooks"], ids=lambda p: p.stem)
def test_the_courses_solutions_are_right_and_its_stubs_are_not_written(path, tmp_path):
    """In every chapter: cases are made, hidden ones too, and no right answer is doubted."""
    notebook = nbformat.read(path, 4)
    for student, code in (("solved", fill_solutions(notebook)), ("untouched", notebook)):
        (tmp_path / "in" / student).mkdir(parents=True)
        nbformat.write(for_students(code), tmp_path / "in" / student / path.name)
    found = graded(tmp_path / "in", tmp_path / "out", (path,), seconds=60)  # some train a network
    assert {verdict for verdict, _ in found["solved"].values()} == {"ok"}, found["solved"]
    assert {verdict for verdict, _ in found["untouched"].values()} == {"todo"}, found["untouched"]


def test_a_folder_without_notebooks_or_without_answers_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["grade", str(tmp_path / "none")]) == 2
    assert cli.main(["grade", str(tmp_path)]) == 2
    assert "There is no notebook" in capsys.readouterr().err
    assert cli.main(["grade", str(tmp_path), "--seconds", "0"]) == 2


# The walls, one by one


def what_a_child_says(work, tmp_path, strong=True, **limits):
    result = tmp_path / "result"
    reason = confined(
        lambda file, _: os.write(file, repr(work()).encode()), result, None, Limits(**limits), strong
    )
    return reason, result.read_text()


@worlds
def test_a_child_sees_python_and_nothing_else(tmp_path):
    (tmp_path / "secret").write_text("x")

    def look():
        import socket

        seen = [
            os.path.exists(p) for p in (tmp_path, "/etc/passwd", "/proc/1", exam.__file__, grading.ANSWERS)
        ]
        answers = os.listdir(grading.ANSWERS)
        with socket.socket() as probe:
            reached = probe.connect_ex(("127.0.0.1", 9))
        return seen, answers, os.getpid(), reached != 0, dict(os.environ).get("SECRET"), os.getuid() != 0

    os.environ["SECRET"] = "token"
    try:
        reason, said = what_a_child_says(look, tmp_path, seconds=20)
    finally:
        del os.environ["SECRET"]
    assert reason == ""
    assert said.startswith("([False, False, False, True, True], [], 1, True, None, True)"), said


@worlds
@pytest.mark.parametrize(
    "crime",
    [
        "open('/usr/mine', 'w')",
        "os.mkdir(os.path.dirname(exam.__file__) + '/mine')",
        "os.chroot('/')",
        "sandbox._mount('none', '/scratch', 'tmpfs', 0)",
        "sandbox._must(sandbox._libc().umount2(str(grading.ANSWERS).encode(), 2))",
        "sandbox._must(sandbox._libc().unshare(sandbox.NEW_MOUNTS))",
        "os.setuid(0) if os.getuid() else 1 / 0",
    ],
)
def test_a_child_has_no_rights(tmp_path, crime):
    def attempt():
        try:
            eval(crime, {"os": os, "exam": exam, "sandbox": sandbox, "grading": grading})
        except OSError as error:
            return type(error).__name__
        return "it worked"

    reason, said = what_a_child_says(attempt, tmp_path, seconds=20)
    assert reason == "" and "it worked" not in said, said


@posix
def test_where_there_are_no_worlds_a_hook_refuses(tmp_path):
    outside = tmp_path / "outside"

    def attempt():
        import socket

        found = []
        for crime in (
            lambda: outside.write_text("x"),
            lambda: socket.socket().connect(("127.0.0.1", 9)),
            lambda: os.system("true"),
            lambda: os.kill(os.getppid(), 0),
            lambda: (grading.ANSWERS / "chapter_00.py").read_text(),
            lambda: os.remove(__file__),
        ):
            try:
                crime()
                found.append("it worked")
            except PermissionError:
                found.append("no")
        return found, (1.0 + torch.ones(3)).sum().item()

    reason, said = what_a_child_says(attempt, tmp_path, strong=False, seconds=20)
    assert reason == "" and said == f"({['no'] * 6}, 6.0)", said
    assert not outside.exists()


@posix
def test_a_child_that_goes_on_is_stopped_with_all_that_it_started(tmp_path):
    def linger(file, _):
        for _ in range(3):
            os.fork()
        while True:
            pass

    begin = time.monotonic()
    reason = confined(linger, tmp_path / "result", None, Limits(seconds=1), not sandbox.strength())
    assert reason == "it took more than 1 s" and time.monotonic() - begin < 20


@worlds
def test_nothing_is_left_of_a_child_that_hides_from_its_end(tmp_path):
    import fcntl  # not on every system

    def hide(file, _):
        os.setsid() if os.getpid() != 1 else None
        sandbox._libc().prctl(sandbox.DEATH_SIGNAL, 0, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        fcntl.flock(file, fcntl.LOCK_EX)  # held as long as it lives
        os.write(file, b"locked")
        signal.pause()

    result = tmp_path / "result"
    assert confined(hide, result, None, Limits(seconds=2)) == "it took more than 2 s"
    assert result.read_bytes() == b"locked"
    with result.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What a submission is cut into


def test_only_what_an_exercise_needs_is_run():
    cells = [
        "import math\nfrom os import path",
        "slow = [math.sqrt(i) for i in range(9)]\nx = 1",
        "def twice(v):\n    return v * factor",
        "factor = 2\nprint(slow)",
        "box = {}\nbox['unused'] = slow",
        "rows = []",
        "for i in range(3):\n    rows.append(i)",
        "y = twice(len(rows))",
    ]
    trees = context(cells, [7])
    whole = [i for i, tree in enumerate(trees) if len(tree.body) == len(context([cells[i]], [0])[0].body)]
    assert [i for i in whole if i not in (0, 2)] == [1, 3, 5, 6, 7]
    names = {}
    for tree in context(cells, [7]):
        exec(compile(tree, "cell", "exec"), names)
    assert names["y"] == 6 and "box" not in names


def test_of_a_submission_only_definitions_imports_and_constants_run():
    source = "import math\nx = 3\ny = print('no')\n%magic\nfor i in range(9): pass\ndef f(): ..."
    assert [type(node).__name__ for node in answering(source)] == ["Import", "Assign", "FunctionDef"]
    with pytest.raises(SyntaxError, match="not read"):
        list(answering("x" * 100_000))


@pytest.mark.parametrize("path", sorted(grading.ANSWERS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_hollow_answers_have_the_names_and_nothing_of_the_code(path):
    real, empty = {}, {}
    exec(path.read_text(), real)
    text = hollow(path.read_text())
    exec(text, empty)
    assert real.keys() - empty.keys() <= {"__annotations__"}
    named = [name for name in real["MISTAKES"] if name in empty]
    for name in named:
        with pytest.raises((ReferenceError, TypeError)):
            empty[name]()
    assert empty["MISTAKES"]["anything"] == {}


def test_mistakes_that_are_added_one_by_one_go_with_the_others():
    source = 'def f(x):\n    return x + 1\nMISTAKES = {}\nMISTAKES["f"] = {"twice": lambda x: f(x) + 1}'
    names = {}
    exec(hollow(source), names)
    assert names["MISTAKES"]["f"] == {} and "x + 1" not in hollow(source)


def test_a_function_that_makes_a_reference_makes_one_that_refuses():
    cell = "@course.exercise(reference=answers.maker(3))\ndef f(x):\n    return ..."
    names = {}
    exec(hollow("def maker(n):\n    return lambda x: x + n", factories([cell])), names)
    with pytest.raises(ReferenceError):
        names["maker"](3)(1)


def test_other_seeds_make_other_cases():
    import ast

    other = OtherSeeds(5)
    names = {"torch": torch}
    exec(compile(other.visit(ast.parse("g = torch.Generator().manual_seed(2)")), "", "exec"), names)
    assert other.changed and names["g"].initial_seed() == 7


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(2, 3),
        torch.tensor([True, False]),
        torch.zeros(0, 4),
        torch.tensor(3, dtype=torch.int64),
        {"a": [1, 2.5, None], "b": (True, "text")},
        torch.randn(3).numpy(),
        torch.randn(2, dtype=torch.complex64),
    ],
    ids=str,
)
def test_values_come_back_as_they_were(value):
    back = exam.decoded(json.loads(json.dumps(exam.encoded(value))))
    assert close(back, value)


@pytest.mark.parametrize(
    "text",
    [
        '{"tensor": ["float32", [1000000, 1000000], ""]}',
        '{"tensor": ["load", [1], "AAAA"]}',
        '{"tensor": ["float32", [3], "AAAA"]}',
        '{"list": 7}',
        '{"dict": [[1]]}',
        "{}",
        "[]",
        '{"plain": 1, "list": []}',
    ],
)
def test_what_is_forged_is_an_error_and_no_crash(text):
    asked = exam.Asked(
        answer=type("A", (), {"reference": staticmethod(lambda x: x)}), cases=[(torch.ones(3),)]
    )
    judge = exam.Judge(asked | {"mistakes": {}})
    verdict, message = judge([{"value": json.loads(text)}])
    assert verdict == "error" and len(message) < 400
