"""The Conv4 that chapters 02 and 03 share: pre-trained once, kept in the cache, the same in both.

What is called "the pre-trained Conv4" then has one accuracy, whichever chapter names it, and a reader may
start at either. Chapter 02 shows this training line by line.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot_lib.core import History, bfloat16_asked, digest, train_classifier
from fewshot_lib.course.lesson import Lesson
from fewshot_lib.course.needs import training_queries
from fewshot_lib.data import ClassDataset
from fewshot_lib.data.cache import Contents, cache_dir, cached_tensors
from fewshot_lib.data.reporting import shows_progress
from fewshot_lib.encoders import Conv4

BATCH_SIZE, MOST_WAYS = 64, 20
_VERSION = 1  # of what is trained here: raise it where the same settings would give other weights
_LABEL = "supervised training"


@dataclass(frozen=True)
class Plan:
    """How much chapters 02 and 03 train: a ProtoNet in episodes, a plain network on as many images."""

    n_steps: int  # of the ProtoNet, one episode each
    n_way: int
    n_shot: int
    n_query: int  # per class

    @property
    def n_images(self) -> int:
        return self.n_steps * self.n_way * (self.n_shot + self.n_query)

    @property
    def n_batches(self) -> int:
        """Of BATCH_SIZE images, in supervised training."""
        return max(1, self.n_images // BATCH_SIZE)


def plan(dataset: ClassDataset, lesson: Lesson) -> Plan:
    """How much is trained on the training classes of a data set in the profile of a lesson."""
    n_steps = lesson.pick(smoke=10, laptop=300, gpu=3000)
    n_way = min(MOST_WAYS, len(dataset.classes("train")))
    return Plan(n_steps, n_way, lesson.n_shot, training_queries(dataset, lesson.n_shot, lesson.n_query))


def pretrained_conv4(dataset: ClassDataset, lesson: Lesson) -> Conv4:
    """The network after supervised training on the training classes, as much as ``plan`` says.

    It is trained if it is not yet in the cache, under a name that holds all that decides its weights but the
    number of threads. Its training log is shown either way.
    """
    n_batches, device = plan(dataset, lesson).n_batches, lesson.device
    rows, labels = dataset.training_set("train")
    if not isinstance(dataset.inputs, Tensor):
        raise ValueError(f"`dataset` is {dataset.name!r}, which holds texts: a Conv4 reads images.")
    images = dataset.inputs[rows]
    arithmetic = [device.type, bfloat16_asked(device), torch.__version__]
    settings = [_VERSION, n_batches, BATCH_SIZE, lesson.seed, *arithmetic]
    logs: list[History] = []

    def build() -> Contents:
        f, log = _train(images.to(device), labels.to(device), n_batches, lesson.seed)
        logs.append(log)
        history = {f"log.{name}": torch.tensor(values) for name, values in log.metrics.items()}
        return {**history, **{f"f.{name}": tensor for name, tensor in f.state_dict().items()}}, {}

    file = cache_dir("pretrained") / f"{digest(images, labels, repr(settings))}.safetensors"
    tensors, _ = cached_tensors(file, build)
    if shows_progress() or not logs:  # else the training has printed it
        _print_log(tensors["log.loss"], tensors["log.accuracy"])
    f = Conv4(in_channels=images.shape[1]).to(device)
    f.load_state_dict({name[2:]: tensor for name, tensor in tensors.items() if name.startswith("f.")})
    return f.eval()


def _train(images: Tensor, labels: Tensor, n_batches: int, seed: int) -> tuple[Conv4, History]:
    """As chapter 02 shows it: a linear layer on top names all training classes, and is thrown away."""
    torch.manual_seed(seed)
    f = Conv4(in_channels=images.shape[1]).to(images.device)
    with torch.no_grad():
        n_features = f.eval()(images[:1]).shape[1]
    head = nn.Linear(n_features, int(labels.max()) + 1).to(images.device)
    log = train_classifier(f, head, images, labels, n_batches, batch_size=BATCH_SIZE, seed=seed, label=_LABEL)
    return f, log


def _print_log(loss: Tensor, accuracy: Tensor) -> None:
    """A line for every fifth of the training, as it prints them itself without a reader."""
    every = max(1, len(loss) // 5)
    for end in range(every, len(loss) + 1, every):
        last = slice(end - every, end)
        means = f"loss {loss[last].mean():.3f}, accuracy {accuracy[last].mean():.3f}"
        print(f"{_LABEL}: step {end:,} of {len(loss):,}, {means}")
