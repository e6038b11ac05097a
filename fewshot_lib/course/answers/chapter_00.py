"""Chapter 00: the accuracy of guessing."""


def chance_level(n_way: int) -> float:
    """Accuracy of guessing in an episode with n_way classes."""
    return 1 / n_way


MISTAKES = {"chance_level": {"that is in percent; give a number between 0 and 1": lambda n: 100 / n}}
