import matplotlib

matplotlib.use("Agg")
import pytest
from matplotlib.figure import Figure

from fewshot_lib import course

CONTROLS = {"k": (5, [1, 2, 5, 10]), "metric": ("l2", ["l2", "cos"])}


@pytest.fixture
def drawn():
    return []


@pytest.fixture
def draw(drawn):
    def figure(k, metric):
        drawn.append((k, metric))
        if (k, metric) == (10, "l2"):
            raise RuntimeError("ten is <too much>")
        fig = Figure(figsize=(2, 1))
        fig.subplots().plot([0, k])
        return fig

    return figure


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(k=(3, [1, 2])), "starts at 3"),
        (dict(k=5), r"give \(default, values\)"),
        (dict(k=(1, [])), r"give \(default, values\)"),
        (dict(frames=[{"k": 3}]), "`k` cannot be 3"),
        (dict(frames=[{"shots": 1}]), "`shots` is not a control"),
        (dict(alt=" "), "`alt`"),
    ],
)
def test_wrong_controls_are_refused_before_anything_is_drawn(draw, drawn, changed, message):
    with pytest.raises(ValueError, match=message):
        course.explore(draw, **(dict(alt="A line.", **CONTROLS) | changed))
    assert not drawn
    with pytest.raises(ValueError, match="no control"):
        course.explore(draw, alt="A line.")


def test_static_shows_the_defaults_and_each_frame_once(draw, drawn, displayed, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    frames = [dict(k=1), dict(k=5), dict(k=1, metric="cos"), dict(k=1)]
    course.explore(draw, alt="A line.", caption="Look.", frames=frames, **CONTROLS)
    assert drawn == [(5, "l2"), (1, "l2"), (1, "cos")]
    assert ["image/png" in data for data, _ in displayed] == [True] * 3
    assert "A line. (k = 1, metric = cos)" in displayed[2][0]["text/html"]
    assert "Look. (k = 1, metric = cos)" in displayed[2][0]["text/html"]


def test_without_ipywidgets_the_static_form_is_shown(draw, displayed, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    course.explore(draw, alt="A line.", **CONTROLS)
    assert "image/png" in displayed[0][0]


def test_a_strict_run_draws_every_setting_and_finds_a_value_that_fails(draw, drawn, displayed, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    course.explore(draw, alt="A line.", **CONTROLS)  # the failing value is neither default nor frame
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    drawn.clear()
    with pytest.raises(RuntimeError, match="too much"):
        course.explore(draw, alt="A line.", **CONTROLS)
    assert drawn == [(5, "l2"), (1, "l2"), (2, "l2"), (10, "l2")]
    drawn.clear()
    course.explore(draw, alt="A line.", **(CONTROLS | {"k": (5, [1, 5])}))
    assert drawn == [(5, "l2"), (1, "l2"), (5, "cos"), (5, "l2")]  # and then the defaults, to be seen


def test_the_widgets_redraw_the_figure_with_its_alternative_text_or_show_its_error(draw, drawn, displayed):
    course.explore(draw, alt="A line.", **CONTROLS)
    slider, choice, picture = displayed[0].children
    # nothing else of ipywidgets, some of which stall without a reader
    kinds = [type(part).__name__ for part in (slider, choice, picture)]
    assert kinds == ["SelectionSlider", "Dropdown", "HTML"]
    assert 'alt="A line. (k = 5, metric = l2)"' in picture.value
    first = picture.value
    slider.value = 1
    choice.value = "cos"
    assert drawn == [(5, "l2"), (1, "l2"), (1, "cos")]
    assert 'alt="A line. (k = 1, metric = cos)"' in picture.value and picture.value != first
    choice.value, slider.value = "l2", 10
    for part in ("RuntimeError", "k = 10", "ten is &lt;too much&gt;"):
        assert part in picture.value
    slider.value = 2
    assert "<img" in picture.value and "RuntimeError" not in picture.value
