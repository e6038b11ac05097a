"""Your own data, labelled from the command line: ``fewshot fit``, ``predict``, ``suggest``, ``evaluate``."""
