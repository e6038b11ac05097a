"""The small masked language model of the course: how it was trained, and how well it fills gaps.

    python benchmarks/masked_lm.py train [--steps 2400] [--tokens 4096] [--lr 2e-3] [--seed 0]
                                         [--checkpoint FILE] [--out FILE]
    python benchmarks/masked_lm.py evaluate [--model minilm-mlm]

``train`` starts from all-MiniLM-L6-v2 under a new head, and writes adapters and head to ``--out``;
interrupted, the same command goes on from its checkpoint. ``evaluate`` prints the table of
data/minilm-mlm.md; a source that is not at hand is left out, by name. Texts are those of the *training*
classes; of these every twentieth, by a hash, is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_lib import data
from fewshot_lib.core import History, Settings, fit, pick_device, seed_everything
from fewshot_lib.course.records import markdown
from fewshot_lib.data.cache import save_tensors
from fewshot_lib.encoders import MaskedLM, load_masked_lm, untrained

SOURCES = ("docstrings", "huffpost/bao", "amazon/bao", "reuters/bao", "20news/bao")
MAX_TOKENS, MASKED, HELD_OUT = 64, 0.15, 5  # length of a text, share of its tokens, per cent of the texts
RANK, SCALE = 32, 2.0  # LoRA's r, and α / r
ADAPTED = r".*\.encoder\..*\.(query|key|value|dense)"  # all linear layers of the encoder
POOL = 16  # batches that are drawn together and divided by length, so that little padding is computed
HEAD = [
    "texts of",
    "texts",
    "gaps",
    "loss, nats",
    "top-1, %",
    "top-5, %",
    "most frequent token, %",
    "5 most frequent, %",
]


@dataclass
class Corpus:
    """Token ids, without special tokens, of the texts of a source: ``train``, and ``held_out``."""

    name: str
    train: list[list[int]]
    held_out: list[list[int]]


def letters(text: str) -> str:
    """What makes two texts the same: not numbers, punctuation or capitals."""
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def is_held_out(text: str) -> bool:
    """By a hash of its letters: the same on every machine, and the same for a text that occurs twice."""
    return int(hashlib.sha256(letters(text).encode()).hexdigest()[:8], 16) % 100 < HELD_OUT


def read(name: str, tokenizer) -> Corpus:
    """The texts of the training classes, but none that stands in a validation or test class as well."""
    dataset = data.load(name)
    rows = dataset.rows("train")
    others = torch.ones(len(dataset), dtype=torch.bool).index_fill(0, rows, False)
    foreign = {letters(text) for text in dataset.take(others)}
    texts = [text for text in dataset.take(rows) if letters(text) not in foreign]
    ids = tokens_of(texts, tokenizer)
    sides = [
        [i for i, text in zip(ids, texts, strict=True) if i and is_held_out(text) == side]
        for side in (False, True)
    ]
    return Corpus(name, *sides)


def tokens_of(texts: list[str], tokenizer) -> list[list[int]]:
    """Token ids of whole texts, which may be longer than the model reads at once."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def windows(texts: list[list[int]], rows: Tensor, tokenizer, generator: torch.Generator) -> list[list[int]]:
    """[CLS], at most ``MAX_TOKENS - 2`` successive tokens of each text, from a random place, and [SEP]."""
    size, places, cut = MAX_TOKENS - 2, torch.rand(len(rows), generator=generator).tolist(), []
    for row, place in zip(rows.tolist(), places, strict=True):
        start = int(place * max(1, len(texts[row]) - size + 1))
        cut.append([tokenizer.cls_token_id, *texts[row][start : start + size], tokenizer.sep_token_id])
    return cut


def with_gaps(
    texts: list[list[int]], tokenizer, generator: torch.Generator, shares: tuple[float, float] = (0.8, 0.1)
) -> dict[str, Tensor]:
    """A batch in which 15 % of the tokens of each text, and at least one, are ``chosen`` (n, L); ``targets``
    (m,) are these.

    shares: how many of the chosen tokens are shown as [MASK], and how many as a random token; the rest stay
    as they are.
    """
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.full((len(texts), int(lengths.max())), tokenizer.pad_token_id)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    columns = torch.arange(ids.shape[1])
    inner = (columns > 0) & (columns < lengths[:, None] - 1)  # without [CLS] and [SEP]
    n_chosen = (MASKED * (lengths - 2)).round().clamp(min=1)
    rank = (
        torch.rand(ids.shape, generator=generator)
        .masked_fill(~inner, -1)
        .argsort(1, descending=True)
        .argsort(1)
    )
    chosen = (rank < n_chosen[:, None]) & inner
    targets = ids[chosen]
    dice = torch.rand(len(targets), generator=generator)
    noise = torch.randint(len(tokenizer), (len(targets),), generator=generator)
    shown = torch.where(
        dice < shares[0], tokenizer.mask_token_id, torch.where(dice < sum(shares), noise, targets)
    )
    ids, mask = ids.masked_scatter(chosen, shown), (columns < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "chosen": chosen, "targets": targets}


def batch_stream(
    corpora: list[Corpus], tokenizer, tokens: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Step -> batch of about ``tokens`` tokens: the same for the same step and seed, whatever was drawn
    before.

    A source is drawn in proportion to the square root of its number of texts, so that small ones are heard
    too.
    """
    weights, lengths = drawn(corpora)
    n_texts = round(POOL * tokens / float((weights * (lengths + 2)).sum() / weights.sum()))

    @lru_cache(maxsize=1)
    def pool(number: int) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        counts = torch.bincount(
            torch.multinomial(weights, n_texts, True, generator=generator), minlength=len(corpora)
        )
        texts = []
        for corpus, count in zip(corpora, counts.tolist(), strict=True):
            rows = torch.randint(len(corpus.train), (count,), generator=generator)
            texts += windows(corpus.train, rows, tokenizer, generator)
        texts.sort(key=len)
        ends = torch.tensor([len(text) for text in texts]).cumsum(0)
        part = ((ends - 1) * POOL // ends[-1]).tolist()
        batches = [
            with_gaps([t for t, p in zip(texts, part, strict=True) if p == k], tokenizer, generator)
            for k in range(POOL)
        ]
        return [batches[k] for k in torch.randperm(POOL, generator=generator).tolist()]

    return lambda i: pool(i // POOL)[i % POOL]


def drawn(corpora: list[Corpus]) -> tuple[Tensor, Tensor]:
    """How often each source is drawn, up to a factor, and the mean tokens of its texts; both (n_sources,)."""
    lengths = [sum(min(len(text), MAX_TOKENS - 2) for text in c.train) / len(c.train) for c in corpora]
    return torch.tensor([math.sqrt(len(c.train)) for c in corpora]), torch.tensor(lengths)


def frequencies(texts: list[list[int]], n_vocab: int) -> Tensor:
    """The share of each token in these texts, (n_vocab,)."""
    counts = torch.bincount(
        torch.tensor([token for text in texts for token in text]), minlength=n_vocab
    ).float()
    return counts / counts.sum()


def drawn_frequencies(corpora: list[Corpus], n_vocab: int) -> Tensor:
    """The share of each token in what ``batch_stream`` draws, (n_vocab,)."""
    weights = torch.stack(drawn(corpora)).prod(0)
    return (
        sum(w * frequencies(c.train, n_vocab) for w, c in zip(weights, corpora, strict=True)) / weights.sum()
    )


def adapted(lm: MaskedLM, frequency: Tensor, rank: int = RANK) -> nn.Module:
    """Freezes the model but for low-rank adapters and the head; the head's bias starts from the word
    frequencies.

    Returns peft's model, whose layers are now those of ``lm``.
    """
    from peft import LoraConfig, get_peft_model

    peft_model = get_peft_model(lm.model, LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=ADAPTED))
    head = lm.model.cls.predictions
    with torch.no_grad():
        nn.init.eye_(head.transform.dense.weight)
        head.transform.dense.bias.zero_()
        head.decoder.bias.copy_((1e6 * frequency + 0.1).log() - (1e6 * frequency + 0.1).sum().log())
    for parameter in (*head.transform.parameters(), head.decoder.bias):
        parameter.requires_grad_(True)
    return peft_model


def packed(peft_model: nn.Module) -> dict[str, Tensor]:
    """What was trained, in float16, under the names that ``language_model.merge`` reads."""
    trained = {name: p.detach().half() for name, p in peft_model.named_parameters() if p.requires_grad}
    return {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): tensor
        for name, tensor in trained.items()
    }


def logits_of(lm: MaskedLM, batch: dict[str, Tensor]) -> Tensor:
    """Logits at the chosen positions alone, (m, n_vocab)."""
    ids, mask, chosen = (
        batch[name].to(lm.word_embeddings.device) for name in ("input_ids", "attention_mask", "chosen")
    )
    return lm.logits_at(lm.hidden(ids, mask)[chosen])


def train(
    lm: MaskedLM,
    peft_model: nn.Module,
    batches: Callable,
    n_steps: int,
    lr: float,
    checkpoint: Path | None,
    **settings,
) -> History:
    """AdamW on what requires a gradient; its rate rises over 5 % of the steps and falls linearly to zero."""
    optimizer = torch.optim.AdamW(
        [p for p in peft_model.parameters() if p.requires_grad], lr=lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    rising = max(1, n_steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / rising, (n_steps - i) / (n_steps - rising))
    )
    clock = [time.process_time()]

    def step(i: int) -> dict[str, Tensor]:
        batch = batches(i)
        with torch.autocast(lm.word_embeddings.device.type, dtype=torch.bfloat16):
            logits = logits_of(lm, batch).float()
        clock.append(time.process_time())
        loss = F.cross_entropy(logits, batch["targets"].to(logits.device))
        return {"loss": loss, "seconds": torch.tensor(clock[-1] - clock.pop(0))}

    states = {"settings": Settings(lr=lr, **settings)}
    loop = {"checkpoint": checkpoint, "label": "masked LM"}
    return fit(step, peft_model, optimizer, n_steps, scheduler=scheduler, states=states, **loop)


@torch.no_grad()
def score(lm: MaskedLM, texts: list[list[int]], frequency: Tensor) -> Tensor:
    """Per text, (n, 6): gaps, those filled rightly with 1 and 5 guesses, summed loss; the same guesses by
    frequency.

    Every chosen token is shown as [MASK]. frequency (n_vocab,): of the tokens, for the baseline that ignores
    the text.
    """
    generator = torch.Generator().manual_seed(0)
    cut = sorted(windows(texts, torch.arange(len(texts)), lm.tokenizer, generator), key=len)
    usual, rows = frequency.topk(5).indices, []
    for start in range(0, len(cut), 32):
        batch = with_gaps(cut[start : start + 32], lm.tokenizer, generator, shares=(1.0, 0.0))
        logits, targets = logits_of(lm, batch).cpu(), batch["targets"]
        right, usually = logits.topk(5).indices == targets[:, None], usual == targets[:, None]
        values = [
            torch.ones(len(targets)),
            right[:, 0],
            right.any(1),
            F.cross_entropy(logits, targets, reduction="none"),
        ]
        values = torch.stack([v.float() for v in (*values, usually[:, 0], usually.any(1))], 1)
        rows.append(
            torch.zeros(len(batch["chosen"]), 6).index_add_(0, batch["chosen"].nonzero()[:, 0], values)
        )
    return torch.cat(rows)


def share(hits: Tensor, gaps: Tensor) -> tuple[float, float]:
    """Accuracy over all gaps and the half width of its 95 % interval; gaps (n,) of one text do not count as
    independent.

    Linearised variance of a ratio: n / (n - 1) · Σ (hits_i - p · gaps_i)² / (Σ gaps_i)².
    """
    n, p = len(gaps), hits.sum() / gaps.sum()
    deviation = ((hits - p * gaps).square().sum() * n / (n - 1)).sqrt() / gaps.sum()
    return float(p), float(deviation * scipy.stats.t.ppf(0.975, n - 1))


def row(name: str, scores: Tensor) -> list[str]:
    """One row of the table, in the order of HEAD."""
    gaps = scores[:, 0]
    rates = [share(scores[:, column], gaps) for column in (1, 2, 4, 5)]
    cells = [f"{100 * p:.1f} ± {100 * half:.1f}" for p, half in rates]
    return [
        name,
        f"{len(gaps):,}",
        f"{int(gaps.sum()):,}",
        f"{float(scores[:, 3].sum() / gaps.sum()):.2f}",
        *cells,
    ]


def show_table(lm: MaskedLM, corpora: list[Corpus]) -> None:
    """A row for each source's held-out texts, for all of them, and for docstrings of packages not seen."""
    usual = {corpus.name: frequencies(corpus.train, len(lm.word_embeddings)) for corpus in corpora}
    scores = {
        f"{corpus.name}, held out": score(lm, corpus.held_out, usual[corpus.name]) for corpus in corpora
    }
    scores["all of these"] = torch.cat(list(scores.values()))
    if "docstrings" in usual:
        unseen = tokens_of(data.load("docstrings").only("val").inputs, lm.tokenizer)
        scores["docstrings, validation classes"] = score(lm, unseen, usual["docstrings"])
    print(markdown(HEAD, itertools.starmap(row, scores.items())))


def run_train(options: argparse.Namespace) -> None:
    """Trains, writes the weights, and prints the table."""
    seed_everything(options.seed)
    lm = untrained(max_tokens=MAX_TOKENS)
    corpora = [read(name, lm.tokenizer) for name in options.sources]
    for c in corpora:
        print(
            f"{c.name}: {len(c.train):,} texts of {sum(map(len, c.train)):,} tokens, {len(c.held_out):,} "
            "held out",
            flush=True,
        )
    peft_model = adapted(lm, drawn_frequencies(corpora, len(lm.word_embeddings)))
    lm.to(pick_device(options.device))
    drawing = {"tokens": options.tokens, "seed": options.seed}
    batches = batch_stream(corpora, lm.tokenizer, **drawing)
    history = train(lm, peft_model, batches, options.steps, options.lr, options.checkpoint, **drawing)
    metadata = {
        "scale": str(SCALE),
        "steps": str(options.steps),
        "seed": str(options.seed),
        "base": "all-MiniLM-L6-v2",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(options.out, packed(peft_model), metadata)
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(
        f"{sum(history.metrics['seconds']) / 60:.0f} minutes of processor time; {options.out}: sha256 "
        f"{digest}"
    )
    show_table(lm, corpora)


def run_evaluate(options: argparse.Namespace) -> None:
    """Prints the table for the sources that are at hand."""
    lm = load_masked_lm(options.model).to(pick_device(options.device))
    corpora = []
    for name in options.sources:
        try:
            corpora.append(read(name, lm.tokenizer))
        except data.DataError as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}")
    show_table(lm, corpora)


def main() -> None:
    """``train`` or ``evaluate``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "evaluate"])
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--tokens", type=int, default=4096, help="per batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("build/masked_lm/checkpoint.pt"))
    parser.add_argument("--out", type=Path, default=Path("build/masked_lm/weights.safetensors"))
    parser.add_argument(
        "--model", default="minilm-mlm", help="what evaluate loads: see encoders.load_masked_lm"
    )
    options = parser.parse_args()
    (run_train if options.command == "train" else run_evaluate)(options)


if __name__ == "__main__":
    main()
