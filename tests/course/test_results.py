"""RESULTS.md from cells: what it averages, what it leaves open, what it keeps and what it refuses."""

import csv
import json
import math
from pathlib import Path

import pytest

from fewshot_lib.core import half_width
from fewshot_lib.course import cli
from fewshot_lib.course.results import page as results_page
from fewshot_lib.course.results import publishing as results
from fewshot_lib.course.results import rows as results_rows
from fewshot_lib.course.results import short as results_short
from fewshot_lib.data.reporting import DataError

ROOT = Path(__file__).parents[2]
FOUR = results_rows.FOUR


def cell(**changed):
    values = {name: "" for name in results.COLUMNS} | dict.fromkeys(results.WHOLE, 1)
    values |= dict.fromkeys(results.NUMBERS, 0.01) | {"mean": 0.7, "encoder": "mpnet", "kind": "inductive"}
    values |= {"family": "bao", "set": "huffpost", "method": "A", "seed": 0, "split": "bao"}
    values |= {"tuned": "frozen", "max_tokens": results_rows.TOKENS, "training_seconds": 0.0}
    return values | changed


def everywhere(**changed):
    return [cell(set=name, shots=k, **changed) for name in FOUR for k in (1, 5)]


def row(cells, method="A"):
    return next(row for row in results_rows.rows_of(cells, "bao") if row.method == method)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder like that of the course, with a README and one published figure."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "published.csv").write_bytes((ROOT / results.PUBLISHED).read_bytes())
    begin, end = results.MARKERS
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    return tmp_path


def written(folder, cells):
    for number, each in enumerate(cells):
        path = folder / "cells" / each["family"] / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each | {"accuracies": [0.5]}), encoding="utf-8")


def test_a_mean_over_sets_has_the_interval_of_independent_means():
    found = row(everywhere(ci95=0.02)).estimate(FOUR, 1)
    assert found.mean == pytest.approx(0.7) and found.half == pytest.approx(0.02 * 2 / 4)


def test_a_tuned_encoder_has_rows_of_its_own():
    cells = everywhere() + everywhere(tuned="LoRA", mean=0.8)
    assert [row.encoder for row in results_rows.rows_of(cells, "bao")] == ["mpnet", "mpnet, LoRA"]
    assert row(cells).estimate(FOUR, 1).mean == pytest.approx(0.7)


def test_more_tokens_of_a_text_are_another_row_and_do_not_replace_the_first(course):
    cells = everywhere() + everywhere(max_tokens=384, mean=0.8)
    assert [row.encoder for row in results_rows.rows_of(cells, "bao")] == ["mpnet", "mpnet, 384 tokens"]
    written(course, cells)
    results.publish(course / "cells", say=lambda text: None)
    table = results.read_table(results.TABLE)
    assert len(table) == len(cells) and {each["max_tokens"] for each in table} == {200, 384}
    assert "| A | mpnet, 384 tokens | – | 80.0 ± 1.0 |" in results.PAGE.read_text(encoding="utf-8")


def test_seeds_are_averaged_over_the_sets_first_and_widen_the_interval():
    means = (0.68, 0.70, 0.75)
    cells = [c for seed, mean in enumerate(means) for c in everywhere(seed=seed, mean=mean, ci95=0.02)]
    found = row(cells).estimate(FOUR, 5)
    assert found.mean == pytest.approx(0.71)
    assert found.half == pytest.approx(math.hypot(0.01, half_width(results_rows.torch.tensor(means))))


def test_what_lacks_a_set_or_a_seed_is_not_run():
    cells = everywhere(seed=0) + everywhere(seed=1)
    lacking = [c for c in cells if (c["set"], c["shots"], c["seed"]) != ("amazon", 1, 1)]
    assert row(lacking).estimate(FOUR, 1) is None and row(lacking).estimate(FOUR, 5) is not None
    assert row([c for c in cells if c["set"] != "amazon"]).estimate(FOUR, 5) is None
    assert "| A |" not in results_page.family_table(lacking, "metaprompter", [])
    table = results_page.family_table(lacking, "bao", [])
    assert "| A | mpnet |" in table and "not run" in table


def test_what_was_run_where_is_said_in_the_fewest_words():
    cells = everywhere() + everywhere(family="metaprompter") + everywhere(family="metaprompting")
    cells += everywhere(method="B", tuned="LoRA") + everywhere(method="C", family="metaprompting")
    cells += everywhere(method="C")
    lines = results_short.coverage(cells).splitlines()
    assert lines[0] == "| method | mpnet | mpnet, LoRA |"
    assert lines[2:] == ["| A | all | – |", "| B | – | bao |", "| C | not metaprompter | – |"]


def test_too_few_trainings_are_marked_where_there_is_something_to_train():
    trained = [everywhere(seed=seed, training_seconds=9.0) for seed in range(3)]
    said = [row([c for some in trained[:n] for c in some]).seeds for n in (1, 2, 3)]
    assert said == ["1 (± too narrow)", "2 (± very wide)", "3"] and row(everywhere()).seeds == "–"
    assert row(everywhere(tuned="LoRA")).seeds == "1 (± too narrow)"


def test_the_highest_rows_are_complete_of_their_kind_and_stand_beside_the_highest_paper():
    cells = everywhere(mean=0.8, minus_names=0.02, minus_names_ci95=0.01, ci95=0.02)
    cells += everywhere(method="T", mean=0.9, training_seconds=1.0) + everywhere(method="gaps", mean=0.99)[2:]
    paper = dict.fromkeys((f"{name}_{k}" for name in FOUR for k in (1, 5)), "")
    paper |= {"family": "bao", "kind": "inductive", "encoder": "E", "mark": "V", "mean_5": ""}
    papers = [paper | {"method": f"P{mean}", "mean_1": mean} for mean in ("9.50", "75.00")]
    lines = results_short.highest(cells, "bao", papers).splitlines()[2:]
    assert lines[0] == "| inductive, nothing trained | 1 | A | mpnet | – | 80.0 ± 1.0 | +2.0 ± 0.5 | – |"
    assert lines[2].startswith("| inductive | 1 | T | mpnet | 1 (± too narrow) | 90.0")
    assert lines[2].endswith("| 75.00, P75.00, E [V] |") and lines[3].endswith("| – |")
    assert lines[4] == "| transductive | 1 | not run | not run | not run | not run | not run | – |"


def test_costs_are_those_of_one_thread_of_a_cpu():
    common = {"method": "A", "episodes": 1000, "threads": 1, "device": "EPYC"}
    cells = [
        cell(**common, seconds=s, training_seconds=t) for s, t in ((1.0, 10.0), (2.0, 20.0), (9.0, 90.0))
    ]
    cells += [
        cell(**common | {"threads": 2}, seconds=50),
        cell(**common | {"device": "NVIDIA X"}, seconds=50),
    ]
    assert results_short.costs(cells, "A", "mpnet") == ["20", "2.0"]
    assert results_short.costs(cells, "B", "mpnet") == ["–", "–"]


def test_choices_of_texts_of_several_sets_add_their_variances():
    assert results_short.deviation_of_mean([[1.0, 3.0], [5.0], [2.0, 4.0], [7.0]]) == pytest.approx(0.5)
    line = {"set": "huffpost", "method": "names as examples", "shots": "1"}
    lines = [
        line | {"choice": str(choice), "mean": str(mean)} for choice, mean in ((10, 0.5), (0, 0.7), (2, 0.6))
    ]
    found = results_short.over_choices(lines, "huffpost", "names as examples", 1)
    assert found == pytest.approx([70, 60, 50])


def test_an_aim_is_met_or_says_by_how_much_it_is_missed():
    cells = everywhere(mean=0.79, method="low") + everywhere(mean=0.812, method="high")
    cells += everywhere(mean=0.99, method="gaps")[1:]  # 1 shot incomplete
    lines = {(line[0], line[1], line[2]): line for line in results_page.aims(cells)}
    assert lines["bao", "inductive", "1"][3:] == ["80.0", "high, mpnet", "81.2 ± 0.5", "met"]
    assert lines["bao", "inductive", "5"][4:] == ["gaps, mpnet", "99.0 ± 0.5", "met"]
    assert lines["bao", "transductive", "5"][4:] == ["not run"] * 3
    (line,) = [
        line for line in results_page.aims(everywhere(mean=0.79)) if line[:3] == ["bao", "inductive", "1"]
    ]
    assert line[-1] == "missed by 1.0"


@pytest.mark.parametrize(
    ("mean", "said"), [(0.806, "met"), (0.794, "missed by 0.6"), (0.803, "(+0.3)"), (0.797, "(-0.3)")]
)
def test_an_aim_inside_the_interval_is_not_told_apart(mean, said):
    found = results_page.verdict(results_rows.Estimate(mean, 0.005), 80.0)
    assert found.endswith(said) and found.startswith("not told apart") == ("(" in said)


def test_published_figures_carry_their_mark_and_are_averaged_only_where_all_are_known():
    published = results.read_lines(ROOT / results.PUBLISHED)
    assert {paper["mark"] for paper in published} <= {"V", "V2", "M"} and all(p["source"] for p in published)
    prompter = next(p for p in published if p["method"].startswith("MetaPrompter ("))
    assert (results_rows.mean_of(prompter, 1), results_rows.mean_of(prompter, 5)) == ("81.78", "86.86")
    table = results_page.family_table(everywhere(), "metaprompting", published)
    assert "| *MetaPrompting (Hou et al. 2022)*, published [V] | BERT-base, tuned |" in table
    assert table.split("\n\n")[0].endswith("| 79.63 | 83.90 | – | – |")


def test_publishing_adds_cells_to_the_table_and_later_ones_replace_earlier_ones(course, capsys):
    written(course, everywhere())
    assert cli.main(["results", "--publish", "cells"]) == 0
    assert "8 cells read, 8 in results/field.csv" in capsys.readouterr().out
    first = results.read_table(results.TABLE)
    assert [results.identity(c) for c in first] == sorted(results.identity(c) for c in everywhere())
    for path in (course / "cells").rglob("*.json"):
        path.unlink()
    written(course, [cell(set="amazon", shots=5, mean=0.8), cell(method="B (T)", kind="transductive")])
    assert results.publish(course / "cells", say=lambda text: None)
    table = results.read_table(results.TABLE)
    assert (
        len(table) == 9 and next(c for c in table if c["set"] == "amazon" and c["shots"] == 5)["mean"] == 0.8
    )
    page = Path("RESULTS.md").read_text(encoding="utf-8")
    assert "| A | mpnet | – | 70.0 ± 1.0 |" in page and "| B (T) | mpnet | – |" in page
    readme = Path("README.md").read_text(encoding="utf-8")
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    assert "| names as examples | not run | not run |" in readme


def test_the_page_can_be_written_again_from_the_table_alone(course):
    written(course, everywhere(mean=0.7015 - 1e-9))  # 70.1 %, and in the table's digits 70.2 %
    results.publish(course / "cells", say=lambda text: None)
    page = Path("RESULTS.md").read_bytes()
    results.publish(course / "empty", say=lambda text: None)
    assert Path("RESULTS.md").read_bytes() == page


def test_what_is_no_cell_no_table_or_no_course_is_refused_and_nothing_is_written(course, monkeypatch):
    with pytest.raises(DataError, match="no cell in .*measure some"):
        results.publish(course / "cells")
    written(course, everywhere())
    broken = course / "cells" / "bao" / "3.json"
    for content in ("{", '{"mean": 1}', "[]"):
        broken.write_text(content)
        with pytest.raises(DataError, match=r"3\.json is no cell .*delete it"):
            results.publish(course / "cells")
    assert not results.TABLE.exists() and not results.PAGE.exists()
    results.TABLE.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has other columns"):
        results.read_table(results.TABLE)
    results.TABLE.write_text(results.csv_of([cell()]).replace(",0.7,", ",x,"))
    with pytest.raises(DataError, match=r"field\.csv, line 2: could not convert.*Restore it with git"):
        results.read_table(results.TABLE)
    monkeypatch.chdir(course / "cells")
    with pytest.raises(DataError, match="in the folder of the course"):
        results.publish(Path("cells"))


def test_prompts_have_a_mean_only_where_all_four_sets_were_run():
    line = {"method": "M", "model": "lm", "shots": "1"}
    line |= {"accuracy in %": "60.0", "95 % interval": "58.0 to 62.0"}
    everywhere = [line | {"data set": name} for name in FOUR]
    assert "| M | lm | 1 |" + 4 * " 60.0 ± 2.0 |" + " 60.0 ± 1.0 |" in results_page.prompt_table(everywhere)
    lacking = results_page.prompt_table(everywhere[:3])
    assert lacking.endswith("| 60.0 ± 2.0 | not run | not run |")


@pytest.mark.skipif(not (ROOT / results.TABLE).is_file(), reason="nothing was published yet")
def test_the_page_of_the_repository_says_what_its_table_holds():
    published = results.read_lines(ROOT / results.PUBLISHED)
    prompts = results.read_lines(ROOT / results.PROMPTS)
    choices = results.read_lines(ROOT / results.CHOICES)
    page = results_page.page(results.read_table(ROOT / results.TABLE), published, prompts, choices)
    assert page == (ROOT / results.PAGE).read_text(encoding="utf-8")
    with (ROOT / results.TABLE).open(newline="", encoding="utf-8") as file:
        assert all(0 < float(line["mean"]) < 1 for line in csv.DictReader(file))
