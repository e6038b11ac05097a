import matplotlib

matplotlib.use("Agg")
import pytest
from matplotlib.figure import Figure

from fewshot_lib import course
from fewshot_lib.course.explorer import Exploration

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


def test_no_control_at_all_is_refused(draw):
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


def test_every_value_of_every_control_is_swept(draw, drawn):
    exploration = Exploration(draw, CONTROLS, "A line.")
    assert [tuple(values.values()) for values in exploration.settings()] == [(5, "l2"), (1, "l2"), (2, "l2"), (10, "l2"), (5, "cos")]
    with pytest.raises(RuntimeError, match="too much"):
        exploration.sweep()
    good = Exploration(draw, {"k": (5, [1, 5]), "metric": ("l2", ["l2", "cos"])}, "A line.")
    assert good.sweep() == 3


def test_a_strict_run_finds_a_value_that_fails(draw, displayed, monkeypatch):
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    course.explore(draw, alt="A line.", **CONTROLS)  # the failing value is neither default nor frame
    monkeypatch.setenv("FEWSHOT_STRICT", "1")
    with pytest.raises(RuntimeError, match="too much"):
        course.explore(draw, alt="A line.", **CONTROLS)


def test_the_widgets_redraw_the_figure_with_its_alternative_text(draw, drawn, displayed):
    course.explore(draw, alt="A line.", **CONTROLS)
    slider, choice, picture = displayed[0].children
    assert (type(slider).__name__, type(choice).__name__) == ("SelectionSlider", "Dropdown")
    assert 'alt="A line. (k = 5, metric = l2)"' in picture.value
    first = picture.value
    slider.value = 1
    choice.value = "cos"
    assert drawn == [(5, "l2"), (1, "l2"), (1, "cos")]
    assert 'alt="A line. (k = 1, metric = cos)"' in picture.value and picture.value != first


def test_an_error_while_exploring_is_shown_in_place_of_the_figure(draw, displayed):
    course.explore(draw, alt="A line.", **CONTROLS)
    slider, _, picture = displayed[0].children
    slider.value = 10
    assert "RuntimeError" in picture.value and "k = 10" in picture.value and "ten is &lt;too much&gt;" in picture.value
    slider.value = 2
    assert "<img" in picture.value and "RuntimeError" not in picture.value


def test_nothing_is_imported_from_the_widgets_that_stall_without_a_reader(draw, displayed):
    course.explore(draw, alt="A line.", **CONTROLS)
    assert {type(child).__name__ for child in displayed[0].children} == {"SelectionSlider", "Dropdown", "HTML"}
