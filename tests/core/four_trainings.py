"""What test_distributed.py runs with torchrun and without: the four long trainings, small, in float64.

python four_trainings.py FOLDER      # writes what each process has learnt and reported to FOLDER/RANK.pt
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import BertConfig, BertModel

from fewshot_lib.core import processes, seed_everything
from fewshot_lib.data import ClassDataset
from fewshot_lib.encoders import TokenEncoder
from fewshot_lib.graphs import Blocks, GATTransformer
from fewshot_lib.maml import MAML, Classifier, norms, plus_plus_loss, reptile_loss, train_on_episodes
from fewshot_lib.multitask import Task, TaskSampler, train_jointly, tune_encoder
from fewshot_lib.prototypes import train_prototypical

N_CLASSES, D = 12, 6
RANK = int(os.environ.get("RANK", 0))
FOLDER = Path(sys.argv[1])


def points(seed=1):
    """Twelve noisy examples of every class, in three splits."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N_CLASSES).repeat_interleave(12)
    inputs = torch.randn(N_CLASSES, D, generator=generator, dtype=torch.float64)[labels]
    inputs += 0.5 * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    splits = dict(zip(("train", "val", "test"), torch.arange(N_CLASSES).split([6, 3, 3]), strict=True))
    return ClassDataset(inputs, labels, [str(c) for c in range(N_CLASSES)], splits, name=f"task {seed}")


def net():
    seed_everything(RANK)  # the weights of process 0 are those that count
    return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh()).double()


def prototypes(**loop):
    model = net()
    return model, train_prototypical(model, points(), 6, n_way=5, n_shot=2, n_query=3, **loop)


def stopped():
    """Stopped at step 5 and gone on with from step 4, where process 0 wrote a checkpoint."""
    here = {"checkpoint": FOLDER / "prototypes.ckpt", "checkpoint_every": 4}

    def stop():
        raise InterruptedError

    try:
        prototypes(validate=stop, validate_every=5, **here)
    except InterruptedError:
        return prototypes(**here)


def maml(norm="running", chunk_size=None, **options):
    model = norms.with_norm(Classifier(net(), 8, 3).double(), norm)
    learner = MAML(model, inner_steps=2, chunk_size=chunk_size)
    return learner, train_on_episodes(learner, points(), 4, n_way=3, n_query=2, n_tasks=5, **options)


def joint(**options):
    seed_everything(RANK)
    model = GATTransformer(D, Blocks(hidden=8, heads=2, dropout=0.0)).double()
    tasks = [Task(data.name, data, data.inputs) for data in (points(1), points(2))]
    return model, train_jointly(model, TaskSampler(tasks, 3, (1, 2), 4, 3), 4, n_validation=5, **options)


def tuned():
    seed_everything(RANK)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertModel(BertConfig(vocab_size=30, max_position_embeddings=8, **sizes, **dropout)).double()
    encoder = TokenEncoder(
        SimpleNamespace(model=model, tokenizer=SimpleNamespace(pad_token_id=0), n_features=8)
    )
    data, generator = points(), torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (len(data.labels), 8), generator=generator)
    ids[torch.arange(8) >= torch.randint(3, 9, (len(ids), 1), generator=generator)] = 0
    sampler = TaskSampler([Task("texts", data, ids, ids[::12])], 3, 1, 2, 2)
    return encoder, tune_encoder(encoder, [sampler], 3, batch_size=4, n_validation=5)


RUNS = {
    "prototypes": prototypes,
    "prototypes, stopped": stopped,
    "MAML": maml,
    "MAML++, batch norm, chunks": lambda: maml("batch", 3, objective=plus_plus_loss),
    "Reptile": lambda: maml(objective=reptile_loss),
    "joint, sum": joint,
    "joint, uncertainty": lambda: joint(balance="uw"),
    "joint, PCGrad": lambda: joint(balance="pcgrad"),
    "encoder": tuned,
}

if __name__ == "__main__":
    with processes():
        found = {}
        for name, run in RUNS.items():
            model, history = run()
            found[name] = model.state_dict() | {m: torch.tensor(v) for m, v in history.metrics.items()}
        torch.save(found, FOLDER / f"{RANK}.pt")
