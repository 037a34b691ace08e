"""The dashboard in a real browser: Chromium, driven by selenium; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from sites import PATIENCE, Running, running

from mq.serve.ui import samples

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no Chromium with its chromedriver"
)

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
WIDTHS = (390, 1024, 1600)
LINK = 'a[href="/ui/queue?name={}"]'
PAGES = ("/ui/", "/ui/topics", "/ui/schedules", "/ui/store", "/ui/alerts")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "EVERY_SECONDS", 0.1)
        patch.setattr(samples, "REST", 0)
        with running(tmp_path_factory.mktemp("browser") / "store", sync="never") as found:
            queue: mq.Queue[Any] = found.broker.queue(EVIL)
            queue.publish_many([EVIL, {EVIL: EVIL}, b"\xff" * 4000], headers={EVIL: EVIL})
            found.broker.queue("a-queue-with-a-very-long-name-" * 8).publish("word " * 500)
            found.broker.schedule(EVIL, queue, "x", every=3600)
            found.broker.topic("news", retain_count=3).publish(EVIL)
            queue.subscribe("news")
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for each in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{each}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def visit(server: Running, browser: Any) -> Iterator[Callable[[str], None]]:
    """Opens a page; at the end no browser has complained, and no script of another ran."""
    resize(browser, 1024)

    def go(path: str) -> None:
        browser.get(f"http://127.0.0.1:{server.port}{path}")

    yield go
    assert browser.title != "owned"
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(browser: Any, is_so: Callable[[Any], Any]) -> Any:
    """What *is_so* returns once it is so; a page that is on its way is asked again."""
    passing = [NoSuchElementException, StaleElementReferenceException]
    return WebDriverWait(browser, PATIENCE, 0.02, ignored_exceptions=passing).until(is_so)


def text(browser: Any, selector: str) -> str:
    found: str = browser.find_element(By.CSS_SELECTOR, selector).text
    return found


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_page_fits_and_obeys_nothing_that_is_shown(
    server: Running, browser: Any, visit: Callable[[str], None], width: int
) -> None:
    resize(browser, width)
    (first, *_) = server.broker.queue(EVIL).peek(1)
    name = quote(EVIL, safe="")
    for path in (*PAGES, f"/ui/queue?name={name}", f"/ui/message?queue={name}&id={first.id}"):
        visit(path)
        assert browser.title != "owned"
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), path


def test_numbers_change_without_a_reload_and_nothing_jumps(
    server: Running, browser: Any, visit: Callable[[str], None]
) -> None:
    queue = server.broker.queue("live")
    queue.publish("x")
    visit("/ui/")
    until(browser, lambda _: browser.find_elements(By.CSS_SELECTOR, LINK.format("live")))
    until(browser, lambda _: text(browser, "#live") == "live")
    browser.execute_script(f"window.mark = document.querySelector('{LINK.format('live')}').closest('tr')")
    before = browser.execute_script("return mark.getBoundingClientRect().toJSON()")
    queue.publish_many(["x"] * 1233)
    until(browser, lambda _: "1,234" in browser.execute_script("return mark.cells[2].textContent"))
    until(browser, lambda _: browser.execute_script("return !!mark.querySelector('.spark path')"))
    assert browser.execute_script("return mark.isConnected")
    assert browser.execute_script("return mark.getBoundingClientRect().toJSON()") == before
    server.broker.queue("brand-new").publish("x")
    until(browser, lambda _: browser.find_elements(By.CSS_SELECTOR, LINK.format("brand-new")))


def test_the_order_stays_while_a_pointer_is_on_the_list(
    server: Running, browser: Any, visit: Callable[[str], None]
) -> None:
    server.broker.queue("still").publish("x")
    visit("/ui/?sort=ready")
    until(browser, lambda _: text(browser, "#live") == "live" and "still" in text(browser, "#rows"))
    first = "document.querySelector('#rows tr a').textContent"
    shown = browser.execute_script(f"return {first}")
    point = browser.find_element(By.CSS_SELECTOR, "#rows tr td")
    webdriver.ActionChains(browser).move_to_element(point).perform()
    server.broker.queue("still").publish_many(["x"] * 5000)
    until(browser, lambda _: "5,001" in text(browser, "#rows"))
    assert browser.execute_script(f"return {first}") == shown
    webdriver.ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, ".brand")).perform()
    until(browser, lambda _: browser.execute_script(f"return {first}") == "still")


def test_the_keyboard_is_enough(server: Running, browser: Any, visit: Callable[[str], None]) -> None:
    """From the list to a message, cancelled after a question, without a pointer."""
    queue = server.broker.queue("keys")
    queue.publish_many(["one", "two", "three"])
    visit("/ui/")
    press(browser, "/")
    press(browser, "keys", Keys.ENTER)
    until(browser, lambda _: "text=keys" in browser.current_url)
    press(browser, "j", Keys.ENTER)
    until(browser, lambda _: "name=keys" in browser.current_url)
    press(browser, "j", "j", "x")
    assert text(browser, "#chosen") == "1 message chosen:"
    browser.find_element(By.CSS_SELECTOR, ".chosen .danger").send_keys(Keys.ENTER)
    until(browser, lambda _: "Cancel 1 message of keys?" in text(browser, "h1"))
    assert len(queue.peek()) == 3
    press(browser, Keys.ENTER)  # the button has the focus
    until(browser, lambda _: "1 message cancelled." in text(browser, ".note"))
    assert [each.body for each in queue.peek()] == ["one", "three"]
    press(browser, "u")
    until(browser, lambda _: browser.current_url.endswith("/ui/"))


def test_a_test_message_is_published_from_the_panel(
    server: Running, browser: Any, visit: Callable[[str], None]
) -> None:
    server.broker.queue("panel").publish("x")
    visit("/ui/queue?name=panel")
    browser.find_element(By.CSS_SELECTOR, ".panel summary").click()
    until(browser, lambda _: browser.switch_to.active_element.get_attribute("name") == "body")
    press(browser, EVIL)
    browser.find_element(By.CSS_SELECTOR, ".publish .main").click()
    until(browser, lambda _: "Published as message" in text(browser, ".note"))
    assert [each.body for each in server.broker.queue("panel").peek()] == ["x", EVIL]
    browser.find_element(By.CSS_SELECTOR, ".panel summary").click()
    press(browser, Keys.ESCAPE)
    until(browser, lambda _: not browser.find_element(By.CSS_SELECTOR, ".publish").is_displayed())


def test_updates_can_be_paused(server: Running, browser: Any, visit: Callable[[str], None]) -> None:
    server.broker.queue("pausing").publish("x")
    visit("/ui/")
    until(browser, lambda _: text(browser, "#live") == "live")
    browser.find_element(By.ID, "live").click()
    assert text(browser, "#live") == "paused"
    until(browser, lambda _: server.gate.streams == 0)
    browser.find_element(By.ID, "live").click()
    until(browser, lambda _: text(browser, "#live") == "live")


def test_without_a_script_all_is_there(server: Running, browser: Any, visit: Callable[[str], None]) -> None:
    queue = server.broker.queue("plain")
    queue.publish("x")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visit("/ui/queue?name=plain")
        browser.find_element(By.CSS_SELECTOR, ".actions .danger").click()
        until(browser, lambda _: "Purge plain?" in text(browser, "h1"))
        browser.find_element(By.CSS_SELECTOR, ".confirm .danger").click()
        until(browser, lambda _: "1 message purged." in text(browser, ".note"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert queue.stats().ready == 0
