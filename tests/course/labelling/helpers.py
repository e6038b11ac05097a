"""What the tests of labelling share: an encoder that counts words, a command, and tables."""

import argparse
import csv

import torch
from torch import nn

from fewshot_lib.course.cli import DATA_OPTIONS
from fewshot_lib.course.labelling import command

CLASSES = {"refund": "money back", "parcel": "late lost", "price": "cheap cost", "wifi": "network password"}
VOCABULARY = [*CLASSES, *" ".join(CLASSES.values()).split()]


class Bag(nn.Module):
    """Counts words."""

    max_tokens = 9

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, texts):
        counts = [[text.replace(".", "").split().count(word) for word in VOCABULARY] for text in texts]
        return self.one * (torch.tensor(counts) + 0.1)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_commands(parser.add_subparsers(required=True), DATA_OPTIONS)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return parsed.function(parsed)


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        separator = ";" if ";" in file.readline() else ","
        file.seek(0)
        return list(csv.reader(file, delimiter=separator))
