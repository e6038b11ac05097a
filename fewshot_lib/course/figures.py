"""Figures and sentences in a notebook: every figure has an alternative text, every number is computed.

A figure is stored twice in one output: as HTML with ``<img alt=…>`` and caption, which JupyterLab and
nbconvert show, and as a plain PNG for every other reader. The same figure gives the same bytes.
"""

import base64
import html
import io
import os
from typing import Any

import numpy as np
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
    """
    check_alt(alt)
    png = png_bytes(fig)
    data = {"text/html": figure_html(png, alt, caption), "image/png": base64.b64encode(png).decode()}
    data["text/plain"] = f"<Figure: {alt}>"
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def check_alt(alt: str) -> None:
    """Raises ValueError where ``alt`` says nothing."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"`alt` is {alt!r}: say what the figure shows, for a reader who cannot see it.")


def png_bytes(fig: Any) -> bytes:
    """The figure as PNG: a palette, at most 100 dots per inch, no trace of its program. Closes the figure.

    In a strict run, ValueError for one that some readers cannot see.
    """
    if not hasattr(fig, "savefig"):
        kind = type(fig).__name__
        raise TypeError(f"`fig` is a {kind}: give a matplotlib Figure (as the first of plt.subplots()).")
    from matplotlib import pyplot as plt

    if os.environ.get("FEWSHOT_STRICT") == "1":
        from fewshot_lib.course.accessibility import faults

        if found := list(faults(fig)):
            raise ValueError("A figure that some readers cannot see: " + " ".join(found))
    drawn, stored = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=min(fig.dpi, MAX_DPI), bbox_inches="tight", facecolor="white")
    plt.close(fig)
    with_palette(Image.open(drawn).convert("RGB")).save(stored, format="png", optimize=True)
    return stored.getvalue()


def with_palette(image: Image.Image) -> Image.Image:
    """An RGB image with 256 colours, a third of the bytes; the most frequent colours are kept exactly.

    A median cut alone merges colours that cover little, such as the markers of a class, with what surrounds
    them.
    """
    pixels = np.asarray(image, dtype=np.int64)
    packed = pixels @ (1 << 16, 1 << 8, 1)
    packed, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    found = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1)  # (n, 3), every colour once
    exact = found[np.argsort(-counts, kind="stable")[: COLOURS // 2]]
    cut = image.quantize(COLOURS - len(exact), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = np.concatenate([exact, np.reshape(cut.getpalette() or [], (-1, 3))])
    nearest = np.square(found[:, None] - palette).sum(-1).argmin(1)
    result = Image.fromarray(nearest[inverse].reshape(pixels.shape[:2]).astype(np.uint8), "P")
    result.putpalette(palette.astype(np.uint8).tobytes())
    return result


def figure_html(png: bytes, alt: str, caption: str | None = None) -> str:
    """One HTML element that holds the picture, its alternative text and its caption."""
    source = base64.b64encode(png).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}">'
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{below}</figure>"
