"""What an encoder of photos adds to pixels: folders of pictures, and drawings, a few examples of each class.

    python benchmarks/photos.py FOLDER … [--sets omniglot glyphs] [--shots 1 4] [--episodes 600]

Rows: EfficientNet-Lite0 on 224 × 224 pixels in colour, what ``FewShotClassifier`` does where it is installed;
pixels, 28 × 28, grey (what it does elsewhere) and in colour. The head is the default, logistic regression
with C = 10. 5-way (or as many classes as there are), on the same episodes; the difference is paired. Of the
course's drawings the first 50 test classes take part. Nothing is trained or chosen. Prints the table of
data/photos.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from own_data_draws import table_head, table_row
from torch import Tensor, nn

from fewshot_lib import data
from fewshot_lib.classifier.inputs import Pixels
from fewshot_lib.core import EpisodeSampler, compare_paired, evaluate
from fewshot_lib.encoders import PhotoEncoder, extract_features
from fewshot_lib.prototypes import NamesAsExamples

METHOD = NamesAsExamples(C=10, uses_names=False)
MOST_CLASSES, N_QUERY = 50, 8
FORMS = {  # name -> encoder, and how it wants the files of a folder
    "EfficientNet-Lite0": (PhotoEncoder, {"size": PhotoEncoder.side, "color": True}),
    "pixels": (Pixels, {"size": 28, "color": False}),
    "pixels, in colour": (Pixels, {"size": 28, "color": True}),
}


def read(source: str, is_set: bool, encoder: nn.Module, form: dict) -> tuple[data.ClassDataset, Tensor]:
    """A set and its features; of a folder all classes, of the course's set some test classes."""
    if is_set:
        dataset = data.load(source)
        names = [dataset.class_names[c] for c in dataset.classes("test")[:MOST_CLASSES].tolist()]
        dataset = data.load(source, split={"test": names}).only("test")
    else:
        dataset = data.load(source, split={"test": 1.0}, **form)
    return dataset, extract_features(encoder, dataset)


def rows_of(source: str, is_set: bool, options: argparse.Namespace) -> Iterator[str]:
    """The rows of one set: accuracy in % and how much better the first encoder is, for every shot."""
    forms = list(FORMS.items())[: 2 if is_set else 3]  # drawings have no colour
    found = {name: read(source, is_set, kind(), form) for name, (kind, form) in forms}
    dataset = next(iter(found.values()))[0]
    classes = dataset.classes("test")
    smallest, n_way = int(dataset.counts[classes].min()), min(5, len(classes))
    yield f"| **{dataset.name}**: {len(dataset):,} pictures, {len(classes)} classes, {n_way}-way | | |"
    cells: dict[str, list[str]] = {name: [] for name in found}
    for n_shot in options.shots:
        sampler = EpisodeSampler(
            dataset.labels, classes, n_way, n_shot, min(N_QUERY, smallest - n_shot), seed=0
        )
        episodes = sampler.sample(options.episodes)
        results = {name: evaluate(METHOD, episodes, features) for name, (_, features) in found.items()}
        first = next(iter(results.values()))
        for name, result in results.items():
            low, high = result.interval
            text = f"{100 * result.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            if result is not first:
                gain = compare_paired(first, result)
                text += f" ({100 * gain.mean:+.1f} ± {100 * gain.ci95:.1f})"
            cells[name].append(text)
    for name, texts in cells.items():
        yield table_row(name, *texts)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="one sub-folder of pictures per class")
    parser.add_argument("--sets", nargs="*", default=["omniglot", "glyphs"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--episodes", type=int, default=600)
    options = parser.parse_args()
    print(*table_head("encoder", *(f"{n}-shot" for n in options.shots)), sep="\n")
    for source in [*options.folders, *options.sets]:
        for row in rows_of(source, source in options.sets, options):
            print(row, flush=True)


if __name__ == "__main__":
    main()
