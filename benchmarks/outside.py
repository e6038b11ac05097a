"""Texts from packages of the index, on which no setting of the course was chosen.

But one: how much the names of fewer than five classes count, on *tweets* and *editorials*.

    pip download --no-deps --dest build/packages chatterbot-corpus==1.3.3
    pip download --no-deps --dest build/packages --no-binary vaderSentiment vaderSentiment==3.3.2
    python benchmarks/outside.py build/packages            -> build/outside/*.csv
    python benchmarks/own_data.py outside --datasets build/outside/*.csv --draws 100
    python benchmarks/setfit_peer.py --datasets build/outside/*.csv --methods default
    python benchmarks/setfit_peer.py --datasets build/outside/*.csv --methods setfit --loop --bfloat16

*chat*: what people say to a chat bot, by topic (BSD licence): topics of at least 20 such lines. *tweets*,
*movies*, *products*, *editorials*: sentences of four sources that twenty people each rated from −4 to 4
(Hutto and Gilbert 2014, MIT licence), positive or negative where the mean is at least 1 away from 0.
*sources*: which of the four a sentence comes from. The same number of each class, drawn with seed 0.
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import yaml

CHAT, RATED = "chatterbot_corpus-1.3.3-py2.py3-none-any.whl", "vaderSentiment-3.3.2.tar.gz"
WITHIN = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = {  # of the rated sentences: file, and the name as a class
    "tweets": ("tweets", "tweet"),
    "movies": ("movieReviewSnippets", "movie review"),
    "products": ("amazonReviewSnippets", "product review"),
    "editorials": ("nytEditorialSnippets", "newspaper editorial"),
}
OF_A_TOPIC, OF_A_SENTIMENT = 20, 200  # texts of a class
CLEAR = 1.0  # from here on a mean rating is positive, and below its negative it is negative


def chat(wheel: Path) -> pd.DataFrame:
    """The first line of each conversation, and its topic; lines of several topics are left out."""
    rows = []
    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            if name.startswith("chatterbot_corpus/data/english/") and name.endswith(".yml"):
                spoken = yaml.safe_load(files.read(name))["conversations"]
                rows += [(str(lines[0]), Path(name).stem.replace("_", " ")) for lines in spoken]
    found = pd.DataFrame(rows, columns=["text", "label"]).drop_duplicates()
    found = found[~found["text"].str.lower().duplicated(keep=False)]
    return found[found.groupby("label")["text"].transform("size") >= OF_A_TOPIC]


def rated(archive: Path) -> dict[str, pd.DataFrame]:
    """The sentences of each source, with their mean ratings."""
    with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(WITHIN)) as inner:
        raw = {
            name: inner.extractfile(f"hutto_ICWSM_2014/{file}_GroundTruth.txt").read().decode("latin-1")
            for name, (file, _) in SOURCES.items()
        }
    columns = {"header": None, "sep": "\t", "quoting": 3, "names": ["id", "rating", "text"]}
    return {name: pd.read_csv(io.StringIO(text), **columns).dropna() for name, text in raw.items()}


def drawn(table: pd.DataFrame, of_a_class: int) -> pd.DataFrame:
    """The same number of texts of each class, in a random order."""
    rows = list(table[["text", "label"]].drop_duplicates("text").itertuples(index=False))
    random.Random(0).shuffle(rows)
    taken = pd.DataFrame(rows).groupby("label", sort=False).head(of_a_class)
    return taken.reset_index(drop=True)


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="where the two downloads are")
    parser.add_argument("--out", type=Path, default=Path("build/outside"))
    options = parser.parse_args()
    tables = {"chat": drawn(chat(options.packages / CHAT), OF_A_TOPIC)}
    sentences = rated(options.packages / RATED)
    for name, table in sentences.items():
        clear = table[table["rating"].abs() >= CLEAR]
        label = (clear["rating"] > 0).map({True: "positive", False: "negative"})
        tables[name] = drawn(clear.assign(label=label), OF_A_SENTIMENT)
    called = [table.assign(label=SOURCES[name][1]) for name, table in sentences.items()]
    tables["sources"] = drawn(pd.concat(called), OF_A_SENTIMENT)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False)
        print(f"{name}: {table['label'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
