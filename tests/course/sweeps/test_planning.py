import re
import shlex

import pytest

from fewshot_lib.course import sweeps
from fewshot_lib.course.sweeps import planning, points
from fewshot_lib.course.sweeps.grid import parse_grid


def keys(planned):
    return [point.key for point in planned]


def test_a_point_per_combination_in_the_order_given(planned, tmp_path):
    made = planned(n_shot=[1, 5], seed=range(3))
    assert [(p.parameters["n_shot"], p.parameters["seed"]) for p in made] == [
        (1, 0), (1, 1), (1, 2), (5, 0), (5, 1), (5, 2)
    ]  # fmt: skip
    assert "seed = 2" in made[-1].source and made[-1].given == {"profile": "smoke", "n_shot": 5, "seed": 2}
    assert not (tmp_path / "out").exists()  # nothing has started


def test_the_key_is_of_all_that_decides_the_numbers_and_of_nothing_else(planned, tiny, monkeypatch):
    (before,) = keys(planned(seed=[3]))
    assert keys(planned(seed=[3, 3])) == [before]  # each once
    assert keys(planned("elsewhere", seed=[3], n_shot=[1])) == [before]  # 1 is the notebook's own
    assert keys(planned(seed=[4])) != [before]
    assert keys(planned(seed=[3], profile=["laptop"])) != [before]
    with monkeypatch.context() as changed:
        changed.setattr(planning, "versions", lambda: {**points.versions(), "torch": "0.1"})
        assert keys(planned(seed=[3])) != [before]
    tiny.write_text(tiny.read_text().replace("# Tiny", "# Other"))
    assert keys(planned(seed=[3])) != [before]


def test_the_profile_comes_from_outside_where_nothing_is_given(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_PROFILE", "smoke")
    (point,) = sweeps.plan([tiny], {}, tmp_path / "out")
    assert point.parameters["profile"] == point.given["profile"] == "smoke"


def test_the_version_of_own_data_is_part_of_the_key(planned, tmp_path):
    file = tmp_path / "mine.csv"
    rows = [f"text {c} {i},class {c}" for c in range(20) for i in range(20)]
    file.write_text("\n".join(["text,label", *rows]))
    one = planned(dataset=[str(file)])
    assert one[0].data["name"] == "mine" and len(one[0].data["version"]) == 16
    assert keys(planned(dataset=[str(file)])) == keys(one)
    file.write_text("\n".join(["text,label", *rows]).replace("text 3 3", "another text"))
    assert keys(planned(dataset=[str(file)])) != keys(one)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"n_shots": [1]}, "01_tiny has no parameter 'n_shots': did you mean 'n_shot'"),
        ({"n_shot": [1, 0]}, "`n_shot` is 0"),
        ({"profile": ["huge"]}, "`profile` is 'huge'"),
        ({"dataset": ["glyphs", "glyfs"]}, "Did you mean 'glyphs'"),
    ],
)
def test_what_a_notebook_cannot_take_is_refused_before_anything_runs(planned, grid, message):
    with pytest.raises(ValueError, match=message):
        planned(**grid)


def test_a_data_set_must_suffice_for_every_point(planned, tiny, tmp_path):
    chapter = tiny.rename(tiny.with_name("02_prototype_classifiers.ipynb"))
    file = tmp_path / "mine.csv"
    rows = [f"text {c} {i},class {c}" for c in range(20) for i in range(20)]
    file.write_text("\n".join(["text,label", *rows]))
    grid = {"dataset": [str(file)], "n_way": [2], "n_shot": [1, 9], "profile": ["smoke"]}
    with pytest.raises(ValueError, match="with n_shot=9: .* too few examples") as refused:
        sweeps.plan([chapter], grid, tmp_path / "out")
    assert "with n_shot=1:" not in str(refused.value)


def test_a_place_without_room_or_rights_is_refused_in_a_sentence(planned, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`--out .*file/out` cannot be written \(Not a directory\): name a"):
        planned("file/out")
    with pytest.raises(OSError, match=r"needs about [\d,]+ MB, and [\d,]+ MB are free at .* Nothing was run"):
        planning.check_disk(tmp_path, 10**18)


def test_a_snakefile_names_a_sweep_of_one_point_per_folder(planned, tmp_path):
    made = planned(seed=range(2), rate=[0.5], dataset=[None])
    text = planning.write_snakefile(made, tmp_path).read_text()
    commands = dict(re.findall(r'"(\w{16})": "(.*)"', text))
    assert list(commands) == keys(made) and text.count("\n") < 20
    for command, point in zip(commands.values(), made, strict=True):
        words = shlex.split(command)
        grid = parse_grid(word for flag, word in zip(words, words[1:]) if flag == "-p")  # noqa: B905, RUF007
        assert {name: value for name, (value,) in grid.items()} == point.given
