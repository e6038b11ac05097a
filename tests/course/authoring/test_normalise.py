import nbformat
import pytest

from fewshot_lib.course.authoring.normalise import WIDGET_VIEW, normalised

out = nbformat.v4.new_output


def stream(text, name="stdout"):
    return out("stream", name=name, text=text)


@pytest.fixture
def executed(notebook, code):
    def make(*outputs, count=1):
        cell = code("print(1)")
        cell.execution_count, cell.outputs = count, list(outputs)
        return notebook(cell)

    return make


def outputs(notebook):
    return normalised(notebook).cells[0].outputs


@pytest.mark.parametrize("pieces", [["a\nb\nc\n"], ["a\n", "b\nc\n"], ["a", "\nb", "\nc\n"]])
def test_how_text_was_cut_into_pieces_does_not_show(executed, pieces):
    assert outputs(executed(*map(stream, pieces))) == [stream("a\nb\nc\n")]


FIGURE = out("display_data", data={"text/plain": "figure"})
BAR, WARNING = stream("\r 10%| 1/10 [00:01<00:09, 1.0it/s]", "stderr"), stream("careful", "stderr")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([stream("a"), WARNING, stream("b")], [stream("ab"), WARNING]),
        ([WARNING, stream("ab")], [stream("ab"), WARNING]),
        ([stream("a"), FIGURE, stream("b"), stream("c")], [stream("a"), FIGURE, stream("bc")]),
        ([BAR, WARNING], [WARNING]),
    ],
    ids=["streams", "the other stream first", "text stays before and after a figure", "a progress bar"],
)
def test_in_which_order_and_with_what_beside_it_arrived_does_not_show(executed, before, after):
    assert outputs(executed(*before)) == after


def test_widgets_go_and_their_readable_form_stays(executed):
    widget = {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "VBox()"}
    with_figure = widget | {"text/html": "<p>seen</p>"}
    notebook = executed(out("display_data", data=widget), out("display_data", data=with_figure))
    notebook.metadata["widgets"] = {"state": {}}
    result = normalised(notebook)
    assert "widgets" not in result.metadata
    (kept,) = result.cells[0].outputs
    assert set(kept.data) == {"text/html", "text/plain"}


def test_counts_run_from_one_also_in_the_results(notebook, code, text):
    cells = [code("a"), text("words"), code("b"), code("")]
    for cell, count in zip((cells[0], cells[2]), (7, 12), strict=True):
        cell.execution_count = count
        cell.outputs = [out("execute_result", data={"text/plain": "1"}, execution_count=count)]
    result = normalised(notebook(*cells))
    assert [cell.execution_count for cell in result.cells if cell.cell_type == "code"] == [1, 2, None]
    assert [cell.outputs[0].execution_count for cell in (result.cells[0], result.cells[2])] == [1, 2]


def test_metadata_of_a_run_go_and_those_of_the_author_stay(notebook, code):
    cell = code("a", "parameters")
    of_the_run = {"execution": {"iopub.status.busy": "now"}, "papermill": {"duration": 3}}
    cell.metadata.update(of_the_run, slideshow={"slide_type": "slide"})
    language = {"name": "python", "version": "3.11.7"}
    result = normalised(notebook(cell, fewshot={"kind": "start"}, papermill={}, language_info=language))
    assert set(result.metadata) == {"kernelspec", "language_info", "fewshot"}
    assert result.metadata.language_info == {"name": "python"}
    assert set(result.cells[0].metadata) == {"tags", "slideshow"}


def test_it_is_done_once_and_to_a_copy(executed):
    notebook = executed(stream("a"), stream("b"), count=5)
    before = nbformat.writes(notebook)
    once = normalised(notebook)
    assert normalised(once) == once and nbformat.writes(notebook) == before
    nbformat.validate(once)


def test_an_old_notebook_gets_the_same_cell_names_every_time():
    old = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(name) for name in "ab"])
    old.nbformat_minor = 4
    for cell in old.cells:
        del cell["id"]
    assert [cell["id"] for cell in normalised(old).cells] == ["cell-001", "cell-002"]
