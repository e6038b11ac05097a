"""The text sets of the few-shot literature: HuffPost, Amazon, Reuters, 20 Newsgroups (Bao et al. 2020) and HWU64.

The same data-set names run under incompatible class splits, so a split has a family name that belongs to every number:

- ``bao``: Bao et al. (2020), "Few-shot Text Classification with Distributional Signatures"; domains are disjoint;
- ``metaprompting``: Hou et al. (2022), the same without HuffPost's class 39, a duplicate of class 35;
- ``metaprompter``: Jiang et al. (2023), blocks of class ids, so that sibling classes stand in train and test.

Texts are taken as they are published, with one exception: of a newsgroup post the part from "Subject:" on is kept (as
MetaPrompting does, for the sender would give the group away) and every run of white space becomes one space.
Class names are the sets' own names in plain English; they are fixed in ``splits/*.json``, and no text was consulted.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from .archives import describe, members, read_bytes
from .cards import card, chosen_family, class_ids, remote_file
from .dataset import ClassDataset
from .download import checksums, fetch
from .reporting import DataError

Rows = list[tuple[str, int]]


def load_huffpost(split_family: str | None = None) -> ClassDataset:
    """36,900 news headlines, 41 sections of 900. Families: "bao" (default), "metaprompting", "metaprompter"."""
    return _load("huffpost", split_family)


def load_amazon(split_family: str | None = None) -> ClassDataset:
    """24,000 product reviews, 24 departments of 1,000. Families: "bao" (default), "metaprompting", "metaprompter".

    A copy with 16 of the 24 departments is accepted too. Its splits hold the classes that are there, and the split
    family says so ("bao (7 of 9 test classes)"), so that every number made with it carries the restriction.
    """
    return _load("amazon", split_family)


def load_reuters(split_family: str | None = None) -> ClassDataset:
    """620 newswire articles, 31 topics of 20. Families: "bao" (default), "metaprompting", "metaprompter": the same."""
    return _load("reuters", split_family)


def load_20news(split_family: str | None = None) -> ClassDataset:
    """18,828 newsgroup posts, 20 groups of 628 to 999. Families: "bao" (default), "metaprompting", "metaprompter"."""
    return _load("20news", split_family)


def load_hwu64(split_family: str | None = None) -> ClassDataset:
    """11,036 requests to a home assistant, 64 intents of 38 to 194. One family: "metaprompter"."""
    return _load("hwu64", split_family)


def _load(name: str, split_family: str | None) -> ClassDataset:
    """A text set with class ids as published. Raises ValueError for an unknown family, DataError without the right file."""
    facts = card(name)
    family = chosen_family(name, list(facts["splits"]), split_family)
    read = read_posts if name == "20news" else read_lines
    rows = fetch(remote_file(facts["file"]), partial(read, facts=facts))
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


def read_lines(path: Path, facts: dict[str, Any]) -> Rows:
    """(text, class id) of every line ``{"raw": text, "label": id}`` of a file, gzipped or not.

    Raises DataError unless the content has one of the checksums in ``facts["content"]``.
    """
    content = read_bytes(path)
    if not checksums(content) & set(facts["content"]):
        raise DataError(
            f"{path.name} does not hold the expected {facts['name']} texts (content sha256 {hashlib.sha256(content).hexdigest()}, "
            f"expected {' or '.join(facts['content'])}); it is {describe(path)}."
        )
    rows = [json.loads(line) for line in content.split(b"\n") if line]
    return [(row["raw"], row["label"]) for row in rows]


def read_posts(path: Path, facts: dict[str, Any]) -> Rows:
    """(text, class id) of every post ``20news-18828/<group>/<number>`` of an archive, by group and number.

    Raises DataError unless the posts are the expected ones. They are compared without white space: copies of this
    archive are about in which some line ends were converted.
    """
    posts = {tuple(name.split("/")[-2:]): content for name, content in members(path)}
    digest = hashlib.sha256()
    for group, number in sorted(posts):
        digest.update(f"{group}/{number}\0".encode() + hashlib.sha256(b"".join(posts[group, number].split())).digest())
    if f"posts:{digest.hexdigest()}" not in facts["content"]:
        raise DataError(
            f"{path.name} holds {len(posts):,} files, but not the expected newsgroup posts "
            f"(posts:{digest.hexdigest()}, expected {' or '.join(facts['content'])}); it is {describe(path)}."
        )
    class_of = {entry["label"]: entry["id"] for entry in facts["classes"]}
    order = sorted(posts, key=lambda post: (class_of[post[0]], int(post[1])))
    return [(from_subject(posts[post].decode("latin-1")), class_of[post[0]]) for post in order]


def from_subject(post: str) -> str:
    """A post from "Subject:" on, with single spaces.

    >>> from_subject("From: me@here\\nSubject: Re: orbits\\n\\n  How high?")
    'Subject: Re: orbits How high?'
    """
    return " ".join(post[max(post.find("Subject:"), 0) :].split())
