"""Figures and sentences in a notebook: every figure has an alternative text, every number in a sentence is computed.

A figure is stored twice in one output: as HTML with ``<img alt=…>`` and caption, which JupyterLab and nbconvert show,
and as a plain PNG for every other reader. The same figure gives the same bytes.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Any

from IPython.display import display
from PIL import Image

MAX_DPI = 100
COLOURS = 256  # a palette makes the file less than half as large, and a drawing seldom has more colours


def say(text: str) -> None:
    """Shows a sentence (markdown) that was computed: ``say(f"It reaches {accuracy:.1%}.")``."""
    display({"text/markdown": text, "text/plain": text}, raw=True)


def show(fig: Any, *, alt: str, caption: str | None = None) -> None:
    """Shows a matplotlib figure with an alternative text, and closes it.

    alt: what the figure shows, for a reader who cannot see it. caption: plain text below the figure.
    Raises ValueError for an empty ``alt`` and TypeError for what is not a figure.
    """
    check_alt(alt)
    png = png_bytes(fig)
    data = {"text/html": figure_html(png, alt, caption), "image/png": base64.b64encode(png).decode(), "text/plain": f"<Figure: {alt}>"}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def check_alt(alt: str) -> None:
    """Raises ValueError where ``alt`` says nothing."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"`alt` is {alt!r}: say in a sentence what the figure shows, for a reader who cannot see it.")


def png_bytes(fig: Any) -> bytes:
    """The figure as PNG with a palette, at most 100 dots per inch, and no trace of who drew it; closes the figure."""
    if not hasattr(fig, "savefig"):
        raise TypeError(f"`fig` is a {type(fig).__name__}: give a matplotlib Figure (for example the first of plt.subplots()).")
    from matplotlib import pyplot as plt

    drawn, stored = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=min(fig.dpi, MAX_DPI), bbox_inches="tight", facecolor="white")
    plt.close(fig)
    image = Image.open(drawn).convert("RGB")
    image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(stored, format="png", optimize=True)
    return stored.getvalue()


def figure_html(png: bytes, alt: str, caption: str | None = None) -> str:
    """One HTML element that holds the picture, its alternative text and its caption."""
    source = base64.b64encode(png).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">'
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{below}</figure>"
