"""The text sets of the literature: HuffPost, Amazon, Reuters, 20 Newsgroups (Bao et al. 2020) and HWU64.

The same data-set names run under incompatible class splits, so a split has a family name that belongs to
every number:

- ``bao``: Bao et al. (2020), "Few-shot Text Classification with Distributional Signatures": disjoint domains;
- ``metaprompting``: Hou et al. (2022), the same without HuffPost's class 39, a duplicate of class 35;
- ``metaprompter``: Jiang et al. (2023), blocks of class ids: sibling classes stand in train and test.

Texts are taken as published, with one exception: of a newsgroup post the part from "Subject:" on is kept (as
MetaPrompting does, for the sender would give the group away), with single spaces. Class names are the sets'
own names in plain English; they are fixed in ``splits/*.json``, and no text was consulted.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from fewshot_lib.data.dataset import ClassDataset, chosen_family, class_ids
from fewshot_lib.data.published.archives import members, read_bytes, unexpected
from fewshot_lib.data.published.download import card, fetch

Rows = list[tuple[str, int]]


def _load(name: str, split_family: str | None = None) -> ClassDataset:
    """A text set with class ids as published.

    A copy of Amazon with 16 of the 24 departments is accepted too: the splits hold the classes that are there
    and the family says so ("bao (7 of 9 test classes)"), so that every number carries the restriction.
    """
    facts = card(name)
    family = chosen_family(name, list(facts["splits"]), split_family)
    read = read_posts if name == "20news" else read_lines
    rows = fetch(facts["file"], partial(read, facts=facts))
    present = {label for _, label in rows}
    wanted = facts["splits"][family]
    splits = {split: class_ids([c for c in ids if c in present]) for split, ids in wanted.items()}
    if len(splits["test"]) < len(wanted["test"]):
        family = f"{family} ({len(splits['test'])} of {len(wanted['test'])} test classes)"
    return ClassDataset(
        inputs=[text for text, _ in rows],
        labels=class_ids([label for _, label in rows]),
        class_names=[entry["name"] for entry in facts["classes"]],
        splits=splits,
        domains=[entry["domain"] for entry in facts["classes"]],
        name=name,
        split_family=family,
    )


# Each takes a split family; without one, the first of its card.
load_huffpost = partial(_load, "huffpost")  # 36,900 news headlines, 41 sections of 900
load_amazon = partial(_load, "amazon")  # 24,000 product reviews, 24 departments of 1,000
load_reuters = partial(_load, "reuters")  # 620 newswire articles, 31 topics of 20
load_20news = partial(_load, "20news")  # 18,828 posts, 20 newsgroups of 628 to 999
load_hwu64 = partial(_load, "hwu64")  # 11,036 requests to a home assistant, 64 intents of 38 to 194


def read_lines(path: Path, facts: dict[str, Any]) -> Rows:
    """(text, class id) of every line ``{"raw": text, "label": id}`` of a file, gzipped or not.

    The content must have one of the card's checksums: a sha256, or the id that git gives to a file.
    """
    content = read_bytes(path)
    sha256 = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    if not {sha256, f"git:{blob.hexdigest()}"} & set(facts["content"]):
        raise unexpected(path, f"does not hold the expected {facts['name']} texts", sha256, facts["content"])
    rows = [json.loads(line) for line in content.split(b"\n") if line]
    return [(row["raw"], row["label"]) for row in rows]


def read_posts(path: Path, facts: dict[str, Any]) -> Rows:
    """(text, class id) of every post ``20news-18828/<group>/<number>`` of an archive, by group and number.

    They are compared without white space: copies are about in which some line ends were converted.
    """
    posts = {tuple(name.split("/")[-2:]): content for name, content in members(path)}
    digest = hashlib.sha256()
    for group, number in sorted(posts):
        words = hashlib.sha256(b"".join(posts[group, number].split()))
        digest.update(f"{group}/{number}\0".encode() + words.digest())
    if (found := f"posts:{digest.hexdigest()}") not in facts["content"]:
        holds = f"holds {len(posts):,} files, but not the expected newsgroup posts"
        raise unexpected(path, holds, found, facts["content"])
    class_of = {entry["label"]: entry["id"] for entry in facts["classes"]}
    order = sorted(posts, key=lambda post: (class_of[post[0]], int(post[1])))
    return [(from_subject(posts[post].decode("latin-1")), class_of[post[0]]) for post in order]


def from_subject(post: str) -> str:
    """A post from "Subject:" on, with single spaces.

    >>> from_subject("From: me@here\\nSubject: Re: orbits\\n\\n  How high?")
    'Subject: Re: orbits How high?'
    """
    return " ".join(post[max(post.find("Subject:"), 0) :].split())
