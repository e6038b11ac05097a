import io
import re

import matplotlib

matplotlib.use("Agg")
import nbformat
import numpy as np
import pytest
from matplotlib import pyplot as plt
from nbconvert import HTMLExporter
from PIL import Image

from fewshot_lib import course
from fewshot_lib.course.figures import png_bytes

ALT = 'Accuracy rises with "shots" & <ways>.'


def drawing(dpi=72):
    fig, ax = plt.subplots(figsize=(3, 2), dpi=dpi)
    ax.plot([0, 1])
    return fig


def test_the_figure_is_stored_with_its_alternative_text_in_both_forms(displayed):
    course.show(drawing(), alt=ALT, caption="a < b")
    ((data, metadata),) = displayed
    assert 'alt="Accuracy rises with &quot;shots&quot; &amp; &lt;ways&gt;."' in data["text/html"]
    assert "<figcaption>a &lt; b</figcaption>" in data["text/html"]
    assert metadata["image/png"]["alt"] == ALT and ALT in data["text/plain"]
    assert re.search(r'src="data:image/png;base64,([^"]+)"', data["text/html"])[1] == data["image/png"]


def test_nbconvert_shows_the_alternative_text(displayed, notebook, code):
    course.show(drawing(), alt=ALT)
    ((data, metadata),) = displayed
    cell = code("course.show(...)")
    cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata=metadata)]
    page = HTMLExporter().from_notebook_node(notebook(cell))[0]
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 1 and "Accuracy rises" in images[0]
    assert "No description" not in page


def test_the_same_figure_gives_the_same_bytes_without_a_program_version():
    assert (first := png_bytes(drawing())) == png_bytes(drawing()) and b"Software" not in first


def test_the_stored_figure_looks_like_the_drawn_one():
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="cividis")  # more colours than the palette has
    plain = io.BytesIO()
    fig.savefig(plain, format="png", dpi=100, bbox_inches="tight")
    drawn = np.asarray(Image.open(plain).convert("RGB"), dtype=float)
    stored = np.asarray(Image.open(io.BytesIO(png_bytes(fig))).convert("RGB"), dtype=float)
    assert np.abs(drawn - stored).mean() < 1  # of 255


def test_figures_are_closed_and_not_larger_than_100_dots_per_inch():
    before = plt.get_fignums()
    stored = Image.open(io.BytesIO(png_bytes(drawing(dpi=300))))
    assert plt.get_fignums() == before and stored.width <= 320


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_a_figure_without_alternative_text_is_refused_and_so_is_what_is_no_figure(alt, displayed):
    with pytest.raises(ValueError, match="`alt`"):
        course.show([1, 2], alt=alt)
    with pytest.raises(TypeError, match="`fig` is a list"):
        course.show([1, 2], alt=ALT)
    assert not displayed


def test_say_shows_markdown_and_plain_text(displayed):
    course.say("It is **50 %**.")
    assert displayed[0][0] == {"text/markdown": "It is **50 %**.", "text/plain": "It is **50 %**."}
