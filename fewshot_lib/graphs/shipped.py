"""The relational networks that come with the library: for those who have nothing to train on.

They were trained on docstrings (see data/relational.md) and know only how things are related, so they read
the features of any encoder. Each starts from ``HEAD``, names as examples, and corrects it.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from fewshot_lib.encoders import shipped_file
from fewshot_lib.graphs.relational import RelationalNetwork
from fewshot_lib.prototypes import NamesAsExamples

HEAD = NamesAsExamples(C=10)  # one C for all numbers of classes: what it corrects has one scale
FILE = Path(__file__).with_name("relational.safetensors")
SHA256 = "e08df74bd28abf658e4af15ba14a2a628d262efea0e01d172349a1ef9f470e7a"


def load_relational(*, transductive: bool = False) -> RelationalNetwork:
    """A trained network, ready to answer.

    transductive: the one whose classes read the queries, too; else each query is answered for itself.
    """
    tensors = load_file(shipped_file(FILE, SHA256))
    kind = "transductive" if transductive else "inductive"
    name = f"relational attention, trained on docstrings, {kind}"
    with torch.random.fork_rng(devices=[]):  # a new network draws numbers, which the file then replaces
        model = RelationalNetwork(head=HEAD, transductive=transductive, name=name)
    own = {n.removeprefix(f"{kind}."): x for n, x in tensors.items() if n.startswith(f"{kind}.")}
    model.load_state_dict(own)
    return model.eval().requires_grad_(False)
