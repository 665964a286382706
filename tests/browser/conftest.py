"""A browser without a screen, and the pages that it opens from files."""

import json
import os
import shutil
from pathlib import Path

import pytest

PROGRAMS = ("chromium", "chromedriver")


class Browser:
    """Chromium; what it asks of networks and writes to its console is kept."""

    def __init__(self, driver) -> None:
        self._driver = driver

    def open(self, page: Path, width: int, scheme: str = "light", height: int = 900) -> None:
        """Open a file in a window of `width` CSS pixels, in the light or the dark."""
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=width < 600)  # fmt: skip
        self._command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for log in ("browser", "performance"):
            self._driver.get_log(log)
        self._driver.get(page.as_uri())

    def __call__(self, script: str, *arguments):
        """What the body of a JavaScript function returns."""
        return self._driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Run the body of a JavaScript function until it calls its argument."""
        self._driver.execute_async_script(script)

    def click(self, selector: str) -> None:
        self._driver.find_element("css selector", selector).click()

    def errors(self) -> list[str]:
        """The console's warnings and errors since the page was opened."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        told = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in told if event["method"] == "Network.requestWillBeSent"]

    def print(self) -> bytes:
        """The page as A4 paper, a PDF."""
        import base64

        made = self._command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        return base64.b64decode(made["data"])

    def _command(self, name: str, **arguments):
        return self._driver.execute_cdp_cmd(name, arguments)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    chromium, chromedriver = map(shutil.which, PROGRAMS)
    if chromium is None or chromedriver is None:
        pytest.skip("opens pages in a browser: install Debian's packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", profile):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which refuses root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(chromedriver))
    yield Browser(driver)
    driver.quit()
