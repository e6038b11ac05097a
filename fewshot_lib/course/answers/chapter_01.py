"""Chapter 01: drawing episodes, measuring, finding leaks."""

from torch import Tensor


def draw_classes(keys: Tensor, n_way: int) -> Tensor:
    """Random keys (E, C) -> the classes with the n_way largest keys (E, N), in that order."""
    return keys.topk(n_way).indices


def paired_half_width(a: Tensor, b: Tensor) -> Tensor:
    """Accuracies a, b (E,) on the same episodes -> half-width of the 95 % interval of the mean difference."""
    return 1.96 * (a - b).std() / len(a) ** 0.5


def overlap(support: Tensor, query: Tensor) -> Tensor:
    """Whether an example is support and query: support (E, N, K), query (E, M) -> bool (E,)."""
    return (support.flatten(1).unsqueeze(2) == query.unsqueeze(1)).flatten(1).any(1)


def repeated(classes: Tensor) -> Tensor:
    """Whether a class occurs twice: classes (E, N) -> bool (E,)."""
    ordered = classes.sort(dim=1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def leaks(support: Tensor, query: Tensor, classes: Tensor) -> Tensor:
    """Whether an episode breaks one of the two rules: bool (E,)."""
    return overlap(support, query) | repeated(classes)


MISTAKES = {
    "draw_classes": {
        "these are the keys themselves; return their positions": lambda keys, n: keys.topk(n).values,
        "the same class can come twice: this draws with replacement": lambda keys, n: (
            keys[:, :n] * keys.shape[1]
        ).long(),
        "these are the classes with the *smallest* keys": lambda keys, n: keys.topk(n, largest=False).indices,
    },
    "paired_half_width": {
        "that is the standard deviation; how well is the mean known?": lambda a, b: 1.96 * (a - b).std(),
        "you added two variances, as if the episodes were different ones": lambda a, b: (
            1.96 * ((a.var() + b.var()) / len(a)) ** 0.5
        ),
        "the factor 1.96 is missing": lambda a, b: (a - b).std() / len(a) ** 0.5,
    },
    "leaks": {
        "you found the overlap, but not the class that occurs twice": lambda s, q, c: overlap(s, q),
        "you found the repeated class, but not the overlap": lambda s, q, c: repeated(c),
        "this is True for the clean episodes: turn it round": lambda s, q, c: ~leaks(s, q, c),
    },
}
