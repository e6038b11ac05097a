"""Notebooks in JupyterLab, in the hands of a learner: run all, move a slider, answer wrongly, and rightly."""

import ast
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from fewshot_lib.course.running.execution import clear, read_notebook
from fewshot_lib.course.running.parameters import tags
from fewshot_lib.course.running.solutions import EXERCISE, solution_of

from .helpers import opened

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHAPTERS = ["01", "04", "07", "08", "09"]
SECONDS = 200_000  # milliseconds: the longest that anything may take on a busy machine
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # every cell is there, seen or not
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
PROMPTS = (
    "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(each => each.textContent.trim())"
)
# Of all cells that were to run, "[*]", each has run, "[3]:", or was left out after an error, "[ ]:".
IS_DONE = rf"{PROMPTS}.some(text => /\d/.test(text)) && !{PROMPTS}.some(text => text.includes('*'))"
CONTROL = ".noUi-handle, select"  # a slider, a list


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The address of a JupyterLab in a folder with copies of data and notebooks, these without outputs."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "data", home / "course/data")
    (home / "course/notebooks").mkdir()
    for chapter in CHAPTERS:
        (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.ipynb")
        notebook = read_notebook(path)
        clear(notebook)
        nbformat.write(notebook, home / f"course/notebooks/{chapter}.ipynb")
    for name, text in SETTINGS.items():
        plugin, part = name.split("/")
        file = home / "settings/@jupyterlab" / plugin / f"{part}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = {
        "--ServerApp.port": port,
        "--ServerApp.root_dir": home / "course",
        "--IdentityProvider.token": "",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"{name}={value}" for name, value in options.items()]
    folders = ("SETTINGS_DIR", "WORKSPACES_DIR")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "FEWSHOT_STATIC"},
        **{f"JUPYTERLAB_{name}": str(home / name.partition("_")[0].lower()) for name in folders},
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    log = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, cwd=home, **log) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "is running at" in line:
                break
        assert process.poll() is None, "".join(said)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.stdout.close()


def submitted(page, number, source):
    """What a cell prints once its code was replaced and it was run."""
    cell = page.locator(".jp-Notebook .jp-Cell").nth(number)
    cell.locator(".jp-InputArea-editor .cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    before = cell.locator(".jp-InputPrompt").first.inner_text()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        r"([number, before]) => { const text = document.querySelectorAll('.jp-Notebook .jp-Cell')[number]"
        r".querySelector('.jp-InputPrompt').innerText; return text !== before && /\d/.test(text) }",
        arg=[number, before],
        timeout=SECONDS,
    )
    return cell.locator(".jp-OutputArea").inner_text()


def move_by_keyboard(page, group):
    """Goes one step with the first control of a group, and waits for another figure below it."""
    control, figure = group.locator(CONTROL).first, group.locator("img")
    before = figure.get_attribute("src")
    is_list = control.evaluate("each => each.tagName === 'SELECT'")
    at_the_end = control.get_attribute("aria-valuenow") == control.get_attribute("aria-valuemax")
    control.focus()
    page.keyboard.press("ArrowDown" if is_list else "ArrowLeft" if at_the_end else "ArrowRight")
    page.wait_for_function(
        "([group, before]) => group.querySelector('img').src !== before",
        arg=[group.element_handle(), before],
    )
    assert figure.get_attribute("alt")


def mistaken(source, key, message):
    """The stub of an exercise, filled in with a mistake of the chapter: that of this message."""
    tree = ast.parse(source)
    (stub,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = ", ".join(argument.arg for argument in stub.args.args)
    stub.body = ast.parse(f"return answers.MISTAKES[{key!r}][{message!r}]({names})").body
    return ast.unparse(tree)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_works_in_the_hands_of_a_learner(browser, lab, chapter):
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.ipynb")
    notebook = read_notebook(path)
    with opened(browser, f"{lab}/lab/workspaces/{chapter}/tree/notebooks/{chapter}.ipynb", lab) as page:
        page.set_default_timeout(SECONDS)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector(".jp-Toolbar-kernelName:has-text('Python 3')")
        page.wait_for_selector("#jp-bottom-panel:has-text('| Idle')")
        page.click(".lm-MenuBar-item:has-text('Run')")
        page.click(".lm-Menu-item:has-text('Run All Cells')")
        page.wait_for_function(IS_DONE, timeout=SECONDS)
        ran = [text for text in page.evaluate(PROMPTS) if text != "[ ]:"]
        last = page.locator(".jp-CodeCell").nth(len(ran) - 1)
        assert len(ran) == page.locator(".jp-CodeCell").count(), last.inner_text()

        move_by_keyboard(page, page.locator(".widget-vbox").filter(has=page.locator(CONTROL)).first)

        number = next(i for i, cell in enumerate(notebook.cells) if EXERCISE in tags(cell))
        stub = notebook.cells[number].source
        key = re.search(r'answers\.MISTAKES\["(\w+)"\]', stub)[1]
        answers = importlib.import_module(f"fewshot_lib.course.answers.chapter_{chapter}")
        message = next(iter(answers.MISTAKES[key]))
        assert message in submitted(page, number, mistaken(stub, key, message))
        assert ": [ok]" in submitted(page, number, solution_of(notebook, number))
        assert (page.foreign, page.errors) == ([], [])
