"""What the classes are called: "card_payment" says something, "C-17" does not.

A label that is made of words is a name, and goes into the encoder as one more example. Codes and numbers
would only add noise: with one of them among the labels, no label counts as a name.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from fewshot_lib.classifier.labels import tidied
from fewshot_lib.core import one_of

TEMPLATE = "this is about {}."


def spoken(label: object) -> str:
    """ "card_paymentFailed" -> "card payment Failed": as one would say it."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(label))
    return " ".join(re.sub(r"[_/.\-–]+", " ", text).split())


def is_word(label: object) -> bool:
    """Whether a label says something: a word of at least two letters, and more letters than digits."""
    if not isinstance(label, str):
        return False
    letters = sum(character.isalpha() for character in label)
    digits = sum(character.isdigit() for character in label)
    return letters > digits and bool(re.search(r"[^\W\d_]{2}", label))


def class_names(names: str | Mapping | None, classes: np.ndarray) -> list[str] | None:
    """The name of every class, or None if they have none: names as ``FewShotClassifier`` takes them."""
    if names is None:
        return None
    if isinstance(names, Mapping):
        names = {tidied(label): name for label, name in names.items()}
        if missing := [label for label in classes.tolist() if not str(names.get(label) or "").strip()]:
            raise ValueError(f"`names` has no name for the class {missing[0]!r}: give every class one.")
        return [str(names[label]) for label in classes.tolist()]
    one_of("names", names, ("auto", None))
    labels = classes.tolist()
    return [spoken(label) for label in labels] if all(map(is_word, labels)) else None


def sentences(names: Sequence[str], template: str) -> list[str]:
    """Each name inside the template, in place of its one {}."""
    if template.count("{}") != 1:
        raise ValueError(f"`template` is {template!r}: it must contain {{}} once, where the name goes.")
    return [template.replace("{}", name) for name in names]
