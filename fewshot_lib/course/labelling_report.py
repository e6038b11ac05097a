"""How good a classifier is, on one page of HTML that needs nothing else: no script, no font, no network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from fewshot_lib.classifier import wilson

N_BINS, N_PAIRS, N_TEXTS, MOST_CLASSES = 10, 10, 5, 60

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;
padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}
th,td{padding:.2em .6em;text-align:left;border-bottom:1px solid #ddd}
.matrix{overflow-x:auto}.matrix td,.matrix th{text-align:right;border:0;padding:.1em .35em;font-size:12px}
.matrix thead th{writing-mode:vertical-rl}
small{color:#555}blockquote{margin:.2em 1em;color:#444}"""


@dataclass(frozen=True)
class Report:
    """Of n inputs: true and predicted label, probability of the prediction, and the text of each."""

    classes: list[str]
    truth: list[str]
    predicted: list[str]
    probability: np.ndarray
    texts: list[str]

    @classmethod
    def of(
        cls, classes: list[str], probabilities: np.ndarray, truth: Sequence[str], texts: Sequence[str]
    ) -> "Report":
        """Of probabilities (n, N) and the true labels of n texts; labels that are no class count as wrong."""
        chosen = probabilities.argmax(1)
        predicted = [classes[c] for c in chosen]
        return cls(classes, list(truth), predicted, probabilities.max(1), list(texts))

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
        return " ".join(lines)

    def html(self, model: str, source: str) -> str:
        """The page."""
        parts = [
            f"<h1>{escape(model)} on {escape(source)}</h1><p>{escape(self.in_words)}</p>",
            "<h2>Accuracy per class</h2>" + self._per_class(),
            "<h2>Worst confusions</h2>" + self._confusions(),
            "<h2>Confusion matrix</h2><p>Rows: true; columns: predicted.</p>" + self._matrix(),
            "<h2>Calibration</h2><p>Of the answers given this probability, so many were right.</p>"
            + self._calibration(),
        ]
        head = f'<meta charset="utf-8"><title>{escape(model)}: report</title><style>{STYLE}</style>'
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'

    def _per_class(self) -> str:
        rows = []
        for label, n in Counter(self.truth).items():
            right = sum(t == label == p for t, p in zip(self.truth, self.predicted, strict=True))
            rows.append((right / n, label, right, n, *wilson(right, n)))
        cells = [
            [label, f"{share:.1%}", f"{low:.1%} to {high:.1%}", f"{right} of {n}"]
            for share, label, right, n, low, high in sorted(rows)
        ]
        return _table(["class", "accuracy", "95 % interval", "right"], cells)

    def _confusions(self) -> str:
        if not self.confusions:
            return "<p>None: every answer was right.</p>"
        parts = []
        for (true, predicted), n in self.confusions[:N_PAIRS]:
            rows = zip(self.truth, self.predicted, self.probability.tolist(), self.texts, strict=True)
            found = sorted(((p, x) for t, y, p, x in rows if (t, y) == (true, predicted)), reverse=True)
            quotes = "".join(
                f"<blockquote>{escape(x[:300])} <small>{p:.0%}</small></blockquote>"
                for p, x in found[:N_TEXTS]
            )
            parts.append(f"<p><b>{escape(true)}</b> taken for <b>{escape(predicted)}</b>: {n}</p>{quotes}")
        return "".join(parts)

    def _matrix(self) -> str:
        counts = Counter(zip(self.truth, self.predicted, strict=True))
        labels = sorted({*self.classes, *self.truth})
        if len(labels) > MOST_CLASSES:  # of many classes, those that are confused most
            wrong = Counter(label for pair, n in self.confusions for label in pair for _ in range(n))
            labels = sorted(label for label, _ in wrong.most_common(MOST_CLASSES))
        total = Counter(self.truth)
        head = "".join(f"<th>{escape(label)}</th>" for label in labels)
        body = []
        for true in labels:
            cells = []
            for predicted in labels:
                n = counts[true, predicted]
                tint = "68,119,170" if true == predicted else "204,51,17"
                colour = f"rgba({tint},{n / max(total[true], 1):.2f})"
                cells.append(f'<td style="background:{colour}">{n or ""}</td>')
            body.append(f"<tr><th>{escape(true)}</th>{''.join(cells)}</tr>")
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        return f'<div class="matrix">{table}</div>'

    def _calibration(self) -> str:
        cells = [[f"{p:.0%}", f"{a:.0%}", f"{n:,}"] for p, a, n in self.calibration]
        return _table(["probability", "accuracy", "answers"], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
