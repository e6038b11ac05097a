"""The programs that measure speed: what they make of times, that they go on, and that all of them runs."""

import csv
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "benchmarks"
# what a plain environment with torch, transformers and scikit-learn need not have
ABSENT = ["peft", "torchjd", "torch_geometric", "pooch", "matplotlib", "PIL", "pandas", "pyarrow"]


@pytest.fixture
def side_by_side(monkeypatch):
    """The program, which fetches no peers here; threads are as before afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    import side_by_side

    threads = torch.get_num_threads()
    monkeypatch.setattr(side_by_side.peers, "fetch", lambda folder: None)
    monkeypatch.setattr(side_by_side.peers, "PACKAGES", {})
    yield side_by_side
    torch.set_num_threads(threads)


def test_a_ratio_is_the_median_of_the_rounds_per_unit(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from speed.timing import OURS, Times, beside

    times = Times({OURS: [1.0, 2.0, 10.0], "other": [3.0, 2.0, 10.0]}, {OURS: 100, "other": 10})
    assert times.per_unit(OURS) == 0.02 and times.per_unit("other") == 0.3
    assert times.ratio("other") == pytest.approx((10, 10, 30))
    assert beside("case", times, 1e3, note={"other": "!"}) == [
        ["case", OURS, "20", "1", "", ""],
        ["case", "other", "300", "**10**", "10 to 30", "!"],
    ]


@pytest.mark.slow
def test_side_by_side_measures_once_and_writes_between_its_marks(side_by_side, tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{side_by_side.START}\nold\n{side_by_side.END}\nafter\n", encoding="utf-8")
    run = [
        "--tiny",
        "--out",
        str(tmp_path),
        "--page",
        str(page),
        "--setfit",
        str(tmp_path / "none"),
        "--parts",
    ]
    side_by_side.main([*run, "evaluation", "joint"])
    first = page.read_text(encoding="utf-8")
    assert first.startswith("before\n") and first.endswith("\nafter\n") and "\nold\n" not in first
    assert first.count("Not run.") == len(side_by_side.PARTS) - 3  # of the notebooks, recordings are read
    assert "| drawn and evaluated: 5-way 1-shot, 64 features | plain loop |" in first

    kept = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    kept["rows"].append(["drawn and evaluated: x", "easyfsl", "1", "**15**", "9 to 18"])
    (tmp_path / "evaluation.json").write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(side_by_side, "run", lambda *_: pytest.fail("measured again"))
    side_by_side.main([*run, "evaluation", "joint"])
    again = page.read_text(encoding="utf-8")
    assert "| drawn and evaluated: x | easyfsl | 20 × | 15 × | missed by a factor of 1.3: " in again


def test_the_page_of_speeds_says_what_was_kept_and_gives_a_reason_for_what_is_missed(side_by_side):
    found = side_by_side.kept(FOLDER.parent / "results" / "speed", side_by_side.RECORDED)
    assert found.keys() == side_by_side.PARTS.keys()
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    made = text[text.index(side_by_side.START) : text.index(side_by_side.END)]
    assert made == "\n".join([side_by_side.START, "", *side_by_side.page(found, "pictures"), ""])
    assert "not explained" not in made and not re.search(r"missed by a factor of [\d.]+: *\|", made)
    notebooks = {row[0] for row in found["notebooks"].rows}
    assert notebooks == {
        side_by_side.notebooks.name_of(path) for path in side_by_side.notebooks.all_notebooks()
    }
    assert {row[0] for row in found["laptop"].rows} == notebooks


def test_where_a_peer_is_quicker_is_said(side_by_side):
    rows = [
        ["A", "higher", "1", "**0.5**", "0.4 to 0.9"],
        ["B", "higher", "1", "**2**", "1.8 to 3"],
        ["C", "higher", "1", "**0.99**", "0.9 to 1.1"],
    ]
    found = {"maml": side_by_side.Found(rows, "", "", 0.0, [])}
    targets = [
        ["A", "higher", "2 ×", "3 ×", "met"],
        ["A", "higher", "4 ×", "3 ×", "missed by a factor of 1.3: x"],
    ]
    said = side_by_side.in_short(found, targets)
    assert said.startswith("1 of 2 targets are met. higher is quicker") and "A (0.5 of our time)." in said


def test_growth_that_is_more_than_linear_has_a_reason(side_by_side):
    verdict = side_by_side.growth.verdict
    assert verdict("MAML", "tasks", "loop", 1.05) == "linear"
    assert verdict("MAML", "tasks", "loop", 0.5).startswith("less than linear")
    assert verdict("evaluation", "ways", "fewshot_lib", 1.5).startswith("more than linear: N ways")
    assert verdict("MAML", "tasks", "loop", 1.5) == "more than linear: not explained"


def test_setfit_is_compared_on_the_draws_that_both_have(side_by_side, tmp_path):
    fits = [
        {
            "method": method,
            "dataset": "a",
            "shots": 1,
            "draw": draw,
            "cpu_seconds": seconds,
            "precision": "float32",
        }
        for method, draw, seconds in [
            ("default", 0, 1),
            ("default", 1, 2),
            ("setfit", 0, 300),
            ("setfit", 2, 9),
        ]
    ]
    path = tmp_path / "results.jsonl"
    untimed = {"method": "default, 128 tokens", "dataset": "a", "shots": 1, "draw": 0, "precision": "float32"}
    path.write_text("\n".join(map(json.dumps, [*fits, untimed])), encoding="utf-8")
    rows = side_by_side.classifier.measure(path)
    assert rows == [["a", "1", "1", "1.00", "300.0", "float32", "**300**"]]
    recorded = side_by_side.classifier.measure(side_by_side.RECORDED)
    assert {tuple(row[:2]) for row in recorded} >= {("amazon", str(shots)) for shots in (1, 2, 4)}
    table = side_by_side.markdown(side_by_side.classifier.HEAD, recorded)
    assert table in (FOLDER / "README.md").read_text(encoding="utf-8"), "not the recorded fits"


@pytest.mark.slow
def test_the_gpu_program_runs_on_a_cpu_without_what_a_plain_environment_lacks(tmp_path):
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
sys.path.insert(0, {str(FOLDER)!r})
sys.argv = ["on_gpu.py", "--tiny", "--device", "cpu", "--out", {str(tmp_path)!r}]
runpy.run_path({str(FOLDER / "on_gpu.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "on_gpu.json").read_text(encoding="utf-8"))
    assert list(found["parts"]) == ["meta_step", "prototypical", "maml", "lora", "amp"]
    ways = {row[1]: row for row in found["parts"]["meta_step"]["rows"]}
    assert float(ways["vmap"][-1]) < 1e-3 and ways["vmap, CUDA graph"][2] == "–"
    assert max(found["parts"]["meta_step"]["float64"].values()) < 1e-9
    assert all(part["curves"] for name, part in found["parts"].items() if name not in ("meta_step", "amp"))
    page = (tmp_path / "on_gpu.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 5 and "cpu, torch" in page


def test_the_gpu_program_names_the_data_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    import on_gpu

    with pytest.raises(SystemExit):
        on_gpu.main(["--out", str(tmp_path)])
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pack_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import on_gpu_pack

    made = on_gpu_pack.made_up()
    upright = (made.texts.inputs.repeat(1, 98)[:, : 28 * 28] > 25).view(-1, 1, 28, 28).to(torch.uint8) * 255
    turned = torch.cat([torch.rot90(upright, turns, (2, 3)) for turns in range(4)])
    labels = torch.cat([4 * made.texts.labels + turns for turns in range(4)])
    names = [f"{c // 4}, {90 * (c % 4)}°" for c in range(4 * made.texts.n_classes)]
    splits = {name: torch.arange(4 * int(c[0]), 4 * int(c[-1]) + 4) for name, c in made.texts.splits.items()}
    omniglot = on_gpu_pack.ClassDataset(turned, labels, names, splits)
    texts = on_gpu_pack.ClassDataset(["x"] * len(made.texts), *list(vars(made.texts).values())[1:4])

    class Encoder:
        model, n_features = made.encoder.model.half().float(), made.encoder.n_features
        tokenizer = type("", (), {"pad_token_id": 0})

    ids = {len(made.texts): made.texts.inputs, made.texts.n_classes: made.names}
    monkeypatch.setattr("fewshot_lib.data.load", lambda name, **_: omniglot if name == "omniglot" else texts)
    monkeypatch.setattr("fewshot_lib.encoders.TextEncoder", lambda **_: Encoder)
    monkeypatch.setattr("fewshot_lib.encoders.tokenise", lambda _, texts: ids[len(texts)])
    read = on_gpu_pack.read(on_gpu_pack.write(tmp_path))
    assert torch.equal(read.texts.inputs, made.texts.inputs) and torch.equal(read.names, made.names)
    assert torch.equal(read.encoder(made.names), made.encoder(made.names))
    for family in read.omniglot.values():
        order, expected = family.labels.argsort(stable=True), labels.argsort(stable=True)
        assert torch.equal(family.inputs[order], turned[expected])
        assert all(torch.equal(family.splits[name], classes) for name, classes in splits.items())


def test_an_interval_of_several_trainings_has_both_sources_and_of_one_that_over_episodes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import metaprompting

    from fewshot_lib.core import EpisodeResults, EpisodeSampler, few_shot_method, half_width, over_seeds

    episodes = EpisodeSampler(torch.arange(4).repeat_interleave(9), torch.arange(4), 2, 1, 2, 0).sample(6)
    method = few_shot_method("constant", transductive=False)(lambda support, query: query)
    right = torch.tensor([[0.5, 1.0, 0.75, 0.5, 1.0, 0.25], [0.25, 1.0, 0.5, 0.5, 0.75, 0.25]])
    one, both = (EpisodeResults.of(part, method, episodes) for part in (right[0], right[1]))
    assert metaprompting.width(one) == pytest.approx(one.ci95)
    both = over_seeds([one, both])
    of_seeds, of_episodes = half_width(right.mean(1)), half_width(right.mean(0))
    assert metaprompting.width(both) == pytest.approx((of_seeds**2 + of_episodes**2) ** 0.5)


def test_setfits_pairs_are_all_that_there_are_as_many_positive_as_negative(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_steps

    labels = list("aabbbc")
    pairs, same = setfit_steps.pairs_of(labels)
    agree = torch.tensor([labels[i] == labels[j] for i, j in pairs.tolist()])
    assert torch.equal(agree, same == 1) and 2 * int(same.sum()) == len(same)
    n_negative = sum(labels[i] != labels[j] for i in range(6) for j in range(i))
    assert len(pairs) == 2 * n_negative  # the larger kind once, the other again and again
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == 6 * 7 // 2  # a text with itself, too
    assert sorted(setfit_steps.order_of(len(pairs)).tolist()) == list(range(len(pairs)))
    rates = setfit_steps.rates_of(100)
    assert rates[0] == 0 and rates[10] == rates.max() == pytest.approx(2e-5) and int(rates.argmax()) == 10
    assert torch.allclose(rates[11:].diff(), rates[11:].diff()[0], rtol=1e-3, atol=0)


@pytest.mark.slow
def test_setfits_steps_bring_texts_of_a_class_together_and_leave_the_encoder_alone(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_steps

    from fewshot_lib.encoders import TextEncoder

    encoder, texts = TextEncoder(), ["a cat", "some money", "a dog", "a bank"]
    before = encoder(texts)
    (own,) = setfit_steps.tuned(encoder, [texts * 2], [["animal", "finance"] * 4])
    assert torch.equal(encoder(texts), before) and not own.training
    after = own(setfit_steps.tokenise(encoder, texts))
    gaps = [
        torch.cosine_similarity(f[0], f[2], 0) - torch.cosine_similarity(f[0], f[3], 0)
        for f in (before, after)
    ]
    assert gaps[1] > gaps[0]


@pytest.mark.slow
def test_setfits_steps_do_not_depend_on_how_texts_are_read(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_steps

    from fewshot_lib.encoders import TextEncoder

    monkeypatch.setattr(setfit_steps, "DECAY", 1.0)  # 0.01 of few steps is not seen
    encoder, texts = TextEncoder(), ["a cat", "some money in the bank", "a dog that barks at night", "a bank"]
    fit = [[*texts * 3]], [["animal", "finance"] * 6], False
    packed, padded = (setfit_steps.tuned(encoder, *fit, packed=packed)[0].model for packed in (True, False))
    start, end, other = (
        torch.cat([p.detach().flatten() for p in model.parameters()])
        for model in (encoder.model, packed, padded)
    )
    assert (end - other).abs().max() < (end - start).abs().max() / 20

    unused = encoder.tokenizer.convert_tokens_to_ids("zebra")
    before, after = (
        model.get_input_embeddings().weight[unused].detach() for model in (encoder.model, packed)
    )
    alone = before.clone().requires_grad_()
    optimizer = torch.optim.AdamW([alone], weight_decay=setfit_steps.DECAY)
    for rate in setfit_steps.rates_of(-(-len(setfit_steps.pairs_of(fit[1][0])[0]) // setfit_steps.BATCH)):
        optimizer.param_groups[0]["lr"], alone.grad = float(rate), torch.zeros_like(alone)
        optimizer.step()
    assert not torch.allclose(after, before, rtol=1e-5, atol=0)
    assert torch.allclose(after, alone, rtol=1e-6, atol=0)


def test_sets_from_packages_have_as_many_texts_of_each_class_and_none_of_two(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import outside

    monkeypatch.setattr(outside, "OF_A_TOPIC", 3)
    monkeypatch.setattr(outside, "OF_A_SENTIMENT", 4)
    topics = {"food": ["Soup?", "Bread?", "Rice?", "Who?"], "the_sea": ["Fish?", "Waves?", "Sand?", "who?"]}
    with zipfile.ZipFile(tmp_path / outside.CHAT, "w") as wheel:
        for name, lines in {**topics, "few": ["One?"]}.items():
            spoken = "".join(f"- - {line}\n  - An answer.\n" for line in lines)
            wheel.writestr(f"chatterbot_corpus/data/english/{name}.yml", f"conversations:\n{spoken}")
    ratings = [2.0, -1.5, 0.5, 1.0, -1.0, -0.9, 3.0, -3.0, 1.1, -2.2, 2.5, -2.5]
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for file, called in outside.SOURCES.values():
            rows = [f'{i}\t{rating}\t{called} "{i}\n' for i, rating in enumerate(ratings)]
            add(archive, f"hutto_ICWSM_2014/{file}_GroundTruth.txt", "".join(rows).encode())
    with tarfile.open(tmp_path / outside.RATED, "w:gz") as archive:
        add(archive, outside.WITHIN, inner.getvalue())
    monkeypatch.setattr(sys, "argv", ["outside.py", str(tmp_path), "--out", str(tmp_path / "out")])
    outside.main()
    files = (tmp_path / "out").iterdir()
    tables = {file.stem: list(csv.DictReader(file.open(encoding="utf-8"))) for file in files}
    assert sorted(tables) == sorted(["chat", *outside.SOURCES, "sources"])
    assert sorted(row["text"] for row in tables["chat"]) == sorted(topics["food"][:3] + topics["the_sea"][:3])
    assert all(row["text"] in topics[row["label"].replace(" ", "_")] for row in tables["chat"])
    for row in tables["movies"]:
        rating = ratings[int(row["text"].split('"')[1])]
        assert row["label"] == ("positive" if rating > 0 else "negative") and abs(rating) >= 1
    assert Counter(row["label"] for row in tables["movies"]) == {"positive": 4, "negative": 4}
    assert all(row["text"].startswith(row["label"]) for row in tables["sources"])
    assert set(Counter(row["label"] for row in tables["sources"]).values()) == {4}


def add(archive, name, content):
    """A file in a tar archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_of_a_draw_run_in_two_arithmetics_the_more_exact_one_counts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_peer

    kinds = [("default", "float32"), ("setfit", "bfloat16"), ("setfit", "TF32, a GPU")]
    kinds += [("setfit", "bfloat16, loop")]
    rows = [
        {"dataset": "a", "shots": 1, "draw": draw, "method": method, "precision": precision}
        | {"accuracy": 50.0 + 10 * number + draw, "cpu_seconds": 1.0}
        for draw in (0, 1)
        for number, (method, precision) in enumerate(kinds)
    ]
    table, told = "\n".join(setfit_peer.tables(rows)), "draws run in both: -10.00"
    assert "| 70.5 ± " in table and "60.5" not in table and told in table
    assert "| -20.0 ± 0.0 | TF32 | 1.00 s | 1 s, bfloat16 | 1 |" in table
    slow = "\n".join(setfit_peer.tables([row for row in rows if row["precision"] != "TF32, a GPU"]))
    assert "| -10.0 ± 0.0 | bfloat16 | 1.00 s" in slow  # the package before the loop
    rest = [row for row in rows if row["precision"] in ("float32", "bfloat16, loop")]
    loop = "\n".join(setfit_peer.tables(rest))
    assert "| -30.0 ± 0.0 | bfloat16 (loop) | 1.00 s |  |  |" in loop


def test_the_page_beside_setfit_has_the_table_of_what_was_recorded(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_peer

    rows = setfit_peer.results(FOLDER.parent / setfit_peer.RESULTS)
    made = "\n".join([setfit_peer.finding(rows), "", *setfit_peer.tables(rows)])
    text = (FOLDER / "setfit_peer.md").read_text(encoding="utf-8")
    assert f"{setfit_peer.BEGIN}\n\n{made}\n\n{setfit_peer.END}" in text


def test_both_pages_give_a_fit_the_same_seconds(monkeypatch, side_by_side):
    import setfit_peer

    rows = setfit_peer.results(FOLDER.parent / setfit_peer.RESULTS)
    page = [[cell.strip() for cell in line.split("|")[1:-1]] for line in setfit_peer.tables(rows)]
    ratios = {(cells[0], cells[1]): cells[-1] for cells in page if len(cells) > 5 and cells[-1].isdigit()}
    other = {tuple(row[:2]): row for row in side_by_side.classifier.measure(side_by_side.RECORDED)}
    both = ratios.keys() & other.keys()
    assert len(both) > 3
    assert all(f"{float(other[key][-1].strip('*')):.0f}" == ratios[key] for key in both)


def test_the_default_is_ahead_behind_or_not_told_apart(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import setfit_peer

    ahead = {"a": (3.0, 3.1), "b": (-3.0, -3.1), "c": (1.0, -1.0), "d": (9.0,)}  # of d one draw: no interval
    rows = [
        {
            "dataset": name,
            "shots": 2,
            "draw": draw,
            "method": method,
            "precision": "float32",
            "accuracy": value,
        }
        for name, each in ahead.items()
        for draw, points in enumerate(each)
        for method, value in ((setfit_peer.DEFAULT, 50.0 + points), (setfit_peer.SETFIT, 50.0))
    ]
    found = setfit_peer.finding(rows)
    assert "- ahead in 1: a at 2\n- not told apart in 1: c at 2\n- behind in 1: b at 2\n" in found


def test_the_page_of_metaprompting_has_the_table_and_settings_of_its_program(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import metaprompting_page

    text = metaprompting_page.PAGE.read_text(encoding="utf-8")
    assert metaprompting_page.page(text, metaprompting_page.TABLE) == text
    monkeypatch.setattr(metaprompting_page, "INNER_STEPS", 7)
    with pytest.raises(ValueError, match="other settings"):
        metaprompting_page.page(text, metaprompting_page.TABLE)


def test_the_page_of_baselines_says_what_its_rows_say(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import text_baselines

    text = (FOLDER / "text_baselines.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert text_baselines.page(rows) == text and len(rows) == 4 * 2 * 4


def test_the_kept_rows_of_metaprompting_are_those_of_its_table():
    rows = FOLDER.parent / "results" / "metaprompting" / "rows"
    with (FOLDER / "metaprompting.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    found = 0
    for line in table:
        name = re.sub(r"\W+", "-", f"{line['data set']}-{line['split family']}").strip("-")
        method = re.sub(r"\W+", "-", line["method"]).strip("-").lower()
        path = rows / f"{name}-{line['shots']}shot-minilm-mlm-{method}-0.safetensors"
        if path.is_file():
            found += 1
            mean = load_file(path)["accuracies"].double().mean().item()
            assert f"{100 * mean:.1f}" == line["accuracy in %"], path.name
    assert found == 2 * 14 + 3  # five shots of two sets, and three rows of 20 Newsgroups at one
