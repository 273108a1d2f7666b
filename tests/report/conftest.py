import shutil

import pandas as pd
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def history_of():
    """A history with these validation MCCs."""

    def make(values):
        epochs = range(1, len(values) + 1)
        columns = {"learning_rate": 0.1, "loss": 1.0, "val_loss": 2.0, "mcc": 0.5, "seconds": 4.0}
        return pd.DataFrame({"epoch": epochs, **columns, "val_mcc": values})

    return make


@pytest.fixture(scope="package")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_offline(browser):
    """Opens a page without a network; what goes wrong in it is an error."""
    context = browser.new_context(offline=True)
    tab = context.new_page()
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url[:100]))
    yield lambda path: tab.goto(path.as_uri()) and tab
    assert wrong == []
    context.close()
