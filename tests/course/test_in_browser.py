"""What no kernel can tell: a notebook in a real JupyterLab. Needs playwright and a Chromium (``CHROMIUM``); else skipped."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from fewshot_lib.course.execution import execute, kernel_environment

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]
NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false}'
READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext"
IDLE = """async () => {
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready; await panel.sessionContext.ready;
    while (panel.sessionContext.session?.kernel?.status !== 'idle') await new Promise(r => setTimeout(r, 100));
}"""
RUN_ALL = "async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }"
PICTURES = """() => [...document.querySelectorAll('.jp-NotebookPanel .jp-OutputArea-output img')].map(i => [i.alt, i.naturalWidth > 0])"""
SOURCE = """import matplotlib.pyplot as plt
from fewshot_lib import course

def draw(k):
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, k])
    return fig

course.show(draw(1), alt='A "line" & more.', caption="Seen.")
course.explore(draw, k=(5, [1, 2, 5, 10]), alt="A line.")"""


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab with settings of its own; yields its address for a notebook of the directory."""
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(NO_NEWS)
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_WORKSPACES_DIR": "ws",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
    }
    environment = kernel_environment(1, FEWSHOT_STATIC=None, **{name: str(tmp_path / folder) for name, folder in own.items()})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += [
        "--IdentityProvider.token=t",
        f"--ServerApp.root_dir={tmp_path}",
        "--expose-app-in-browser",
        "--LabApp.extension_manager=readonly",
    ]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token=t", timeout=2).close()
                break
            time.sleep(0.1)
        yield lambda name: f"http://127.0.0.1:{port}/lab/workspaces/w/tree/{name}?token=t&reset"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def test_figures_are_seen_before_trust_and_widgets_follow_the_keyboard(lab, page, notebook, code, tmp_path):
    made = notebook(code(SOURCE))
    assert execute(made, tmp_path, environment=kernel_environment(1), timeout=120).failure is None
    nbformat.write(made, tmp_path / "figures.ipynb")  # from somebody else, as after a clone: not trusted here

    page.goto(lab("figures.ipynb"))
    page.wait_for_function(READY)
    page.evaluate(IDLE)
    page.wait_for_selector(".jp-OutputArea-output img")
    assert page.evaluate("() => [...window.jupyterapp.shell.currentWidget.content.model.cells].map(c => c.trusted)") == [False]
    assert page.evaluate(PICTURES) == [['A "line" & more.', True], ["A line. (k = 5)", True]]
    assert page.inner_text(".jp-NotebookPanel figcaption >> nth=0") == "Seen."

    page.evaluate(RUN_ALL)
    handle = page.locator(".jp-NotebookPanel .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.jp-NotebookPanel img[alt=\"A line. (k = 10)\"]')?.naturalWidth > 0")
    assert page.evaluate(PICTURES) == [['A "line" & more.', True], ["A line. (k = 10)", True]]
