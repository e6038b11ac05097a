"""How good a classifier is, on one page of HTML that needs nothing else: no script, no font, no network."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from fewshot_lib.classifier import wilson

N_BINS, N_PAIRS, N_EXAMPLES, MOST_CLASSES = 10, 10, 5, 60
LETTERS, SIDE = 300, 112  # of a text, of a picture in pixels, on the page

STYLE = """*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:62em;margin:0 auto;padding:1em;color:#222;background:#fff}
h1{font-size:1.5em;line-height:1.25;overflow-wrap:anywhere}h2{font-size:1.15em;margin:2em 0 .5em}
.lead{font-size:1.1em}.wide{overflow-x:auto}small,.note{color:#555}
table{border-collapse:collapse}th,td{padding:.25em .7em .25em 0;text-align:left;border-bottom:1px solid #ddd}
.bar{width:9em;min-width:5em}
.bar div{background:#eee;height:.8em}.bar i{display:block;background:#0072b2;height:100%}
.pair{margin:1em 0}.pair blockquote{margin:.3em 0 .3em 1em;color:#444}.pair img{margin:.3em .3em 0 0}
.matrix td,.matrix th{border:0;padding:.1em .35em;font-size:12px;text-align:right;white-space:nowrap}
.matrix thead th{writing-mode:vertical-rl;text-align:right;vertical-align:bottom}
@media(max-width:34em){.bar{display:none}}
@media print{body{font-size:12px}.pair{break-inside:avoid}}"""


@dataclass(frozen=True)
class Report:
    """Of n inputs: true and predicted label, probability of the prediction, the text or picture of each.

    n_learnt: how many of them the classifier has learnt from.
    """

    classes: list[str]
    truth: list[str]
    predicted: list[str]
    probability: np.ndarray
    inputs: Sequence[str] | Tensor
    n_learnt: int = 0

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        probabilities: np.ndarray,
        truth: Sequence[str],
        inputs: Sequence[str] | Tensor,
        n_learnt: int = 0,
    ) -> "Report":
        """Of probabilities (n, N) and the true labels of n inputs: texts, or pictures (n, 1 or 3, h, w).

        Labels that are no class count as wrong.
        """
        classes = [str(label) for label in classes]
        predicted = [classes[c] for c in probabilities.argmax(1)]
        return cls(classes, list(truth), predicted, probabilities.max(1), inputs, n_learnt)

    @property
    def correct(self) -> np.ndarray:
        return np.array([a == b for a, b in zip(self.truth, self.predicted, strict=True)])

    @property
    def calibration(self) -> list[tuple[float, float, int]]:
        """Mean probability, accuracy, number of inputs, of each tenth of probability that occurs."""
        bins = np.minimum((self.probability * N_BINS).astype(int), N_BINS - 1)
        groups = [bins == b for b in range(N_BINS)]
        return [
            (float(self.probability[g].mean()), float(self.correct[g].mean()), int(g.sum()))
            for g in groups
            if g.any()
        ]

    @property
    def calibration_error(self) -> float:
        """Mean distance of probability and accuracy over those tenths (Naeini et al. 2015)."""
        return sum(n * abs(p - a) for p, a, n in self.calibration) / len(self.truth)

    @property
    def confusions(self) -> list[tuple[tuple[str, str], int]]:
        """(true, predicted) label -> how often, of wrong answers, the most frequent first."""
        pairs = zip(self.truth, self.predicted, strict=True)
        return Counter(pair for pair in pairs if pair[0] != pair[1]).most_common()

    @property
    def in_words(self) -> str:
        right, n = int(self.correct.sum()), len(self.truth)
        low, high = wilson(right, n)
        lines = [f"Accuracy {right / n:.1%} (95 % interval {low:.1%} to {high:.1%}; {right:,} of {n:,})."]
        lines.append(f"Calibration error {self.calibration_error:.1%}.")
        if strange := sorted(set(self.truth) - set(self.classes)):
            lines.append(f"Labels that the classifier does not know, counted as wrong: {', '.join(strange)}.")
        if self.n_learnt:
            caution = "of others fewer may be right"
            lines.append(f"{self.n_learnt:,} of them are examples that it has learnt from: {caution}.")
        return " ".join(lines)

    def html(self, model: str, source: str) -> str:
        """The page."""
        parts = [
            f'<h1>{escape(model)} on {escape(source)}</h1><p class="lead">{escape(self.in_words)}</p>',
            "<h2>Accuracy per class, the lowest first</h2>" + self._per_class(),
            "<h2>Worst confusions</h2>" + self._confusions(),
            "<h2>Confusion matrix</h2>" + self._matrix(),
            "<h2>Calibration</h2>" + self._calibration(),
        ]
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(model)}: report</title><style>{STYLE}</style>"
        )
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'

    def _per_class(self) -> str:
        rows = []
        for label, n in Counter(self.truth).items():
            right = sum(t == label == p for t, p in zip(self.truth, self.predicted, strict=True))
            rows.append((right / n, label, right, n, *wilson(right, n)))
        cells = [
            [escape(label), _bar(share), f"{share:.0%}", f"{low:.0%} to {high:.0%}", f"{right} of {n}"]
            for share, label, right, n, low, high in sorted(rows)
        ]
        return _table(["class", "", "accuracy", "95 % interval", "right"], cells)

    def _confusions(self) -> str:
        if not self.confusions:
            return "<p>None: every answer was right.</p>"
        parts = []
        for (true, predicted), n in self.confusions[:N_PAIRS]:
            asked = zip(self.truth, self.predicted, strict=True)
            rows = [row for row, pair in enumerate(asked) if pair == (true, predicted)]
            rows = sorted(rows, key=lambda row: -self.probability[row])[:N_EXAMPLES]
            shown = "".join(_shown(self.inputs[row], float(self.probability[row])) for row in rows)
            words = f"<b>{escape(true)}</b> taken for <b>{escape(predicted)}</b>: {n}"
            parts.append(f'<div class="pair">{words}<br>{shown}</div>')
        return "".join(parts)

    def _matrix(self) -> str:
        counts = Counter(zip(self.truth, self.predicted, strict=True))
        labels = sorted({*self.classes, *self.truth})
        said = "Rows: true; columns: predicted."
        if len(labels) > MOST_CLASSES:  # of many classes, those that are confused most
            wrong = Counter(label for pair, n in self.confusions for label in pair for _ in range(n))
            labels = sorted(label for label, _ in wrong.most_common(MOST_CLASSES))
            said += f" The {len(labels)} classes that are confused most."
        total = Counter(self.truth)
        head = "".join(f"<th>{escape(label)}</th>" for label in labels)
        body = []
        for true in labels:
            cells = []
            for predicted in labels:
                n = counts[true, predicted]
                tint = "0,114,178" if true == predicted else "213,94,0"
                colour = f"rgba({tint},{0.75 * n / max(total[true], 1):.2f})"
                cells.append(f'<td style="background:{colour}">{n or ""}</td>')
            body.append(f"<tr><th>{escape(true)}</th>{''.join(cells)}</tr>")
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        return f'<p class="note">{said}</p><div class="wide matrix">{table}</div>'

    def _calibration(self) -> str:
        cells = [[f"{p:.0%}", _bar(a), f"{a:.0%}", f"{n:,}"] for p, a, n in self.calibration]
        said = '<p class="note">Of the answers given this probability, so many were right.</p>'
        return said + _table(["probability", "", "right", "answers"], cells)


def _shown(given: str | Tensor, probability: float) -> str:
    """One input and the probability of its answer."""
    if isinstance(given, str):
        cut = given if len(given) <= LETTERS else f"{given[:LETTERS]} …"
        return f"<blockquote>{escape(cut)} <small>{probability:.0%}</small></blockquote>"
    return f'<img alt="answered at {probability:.0%}" title="{probability:.0%}" src="{_picture(given)}">'


def _picture(image: Tensor) -> str:
    """A picture (1 or 3, height, width) as an address that holds it."""
    pixels = ((255 * image).byte() if image.is_floating_point() else image).cpu().numpy()
    small = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    small.thumbnail((SIDE, SIDE))
    stored = io.BytesIO()
    small.save(stored, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _bar(share: float) -> str:
    return f'<div><i style="width:{share:.0%}"></i></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; a column without a head is one of bars."""
    kinds = ["" if name else ' class="bar"' for name in head]
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
