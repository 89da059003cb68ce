"""The console's page in a real browser, in states that no healthy environment shows."""

import json

import pytest
from conftest import write_keys

pytestmark = [
    pytest.mark.parts,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
LONG = "a-very-long-name-" * 20
MARKUP = "<img src=x onerror=alert(1)> <b>bold</b>"
SLOT = {"reachable": True, "ready": True, "draining": False, "reason": "", "generation": 3, "model_digest": "sha256:abc", "metrics": None}
ENTRY = {"kind": "promote", "slot": "green", "outcome": "reverted", "summary": LONG + MARKUP, "generation": 4, "started": 1.0, "ended": 6.0}
OPERATION = {"id": "x", "kind": "promote", "by": LONG, "target": "green", "phase": "unheard-of", "started": 1.0}
STATE = {
    "time": 1.0,
    "environment": LONG,
    "served_by": "blue",
    "weights": {"blue": 1, "green": 99},
    "slots": {"blue": SLOT, "green": {"reachable": False, "ready": False, "reason": f"no answer: {LONG}", "metrics": None}},
    "promotion": {"active": "blue", "previous": None, "kept_until": None, "operation": OPERATION, "history": [{**ENTRY, "reason": LONG}]},
}


@pytest.fixture
def opened(browser, start, tmp_path):
    """`opened(width, models)`: the page over `STATE`, which must neither fail in its script nor run what it is shown."""
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    console = {"slots": {"blue": {"url": "http://127.0.0.1:1", "metrics_url": "http://127.0.0.1:1/metrics"}}}
    pages, trouble = [], []
    with start("--step-seconds", "0.05", "--length", "300", access={"keys_file": str(keys)}, console=console) as run:
        run.event("ready")

        def open_page(width=1280, models=("fake",)):
            page = browser.new_page(base_url=run.url, viewport={"width": width, "height": 900})
            pages.append(page)
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
            page.route("**/console/api/state", lambda route: route.fulfill(json=STATE))
            listed = {"object": "list", "data": [{"id": name} for name in models]}
            page.route("**/v1/models", lambda route: route.fulfill(json=listed))
            alert = {"alert_id": "a", "name": LONG, "severity": None, "started_at": None, "acknowledged": False}
            page.route("**/monitoring/alerts", lambda route: route.fulfill(json={"alerts": [alert]}))
            page.goto("/console#key=root")
            page.locator("#slot-green").wait_for()
            return page

        yield open_page
        for page in pages:
            page.close()
    assert trouble == []


@pytest.mark.parametrize("width", [1280, 320])
def test_long_names_stay_inside_the_page(opened, width):
    page = opened(width, ("fake", LONG))
    page.get_by_role("button", name="Acknowledge").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert MARKUP in page.locator("#history").inner_text()


def test_without_a_model_it_says_so(opened):
    page = opened(models=())
    page.get_by_role("button", name="Send").click()
    page.get_by_text("No model is served here").wait_for()


def test_an_answer_that_breaks_off_is_told_apart_from_one_that_was_stopped_and_markup_is_text(opened):
    page = opened()
    piece = {"choices": [{"index": 0, "delta": {"content": MARKUP}, "finish_reason": None}]}
    headers = {"content-type": "text/event-stream", "x-inferstack-slot": "<i>blue"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(headers=headers, body=f"data: {json.dumps(piece)}\n\n"))
    page.get_by_role("button", name="Send").click()
    page.get_by_text("The connection ended before the answer did.").wait_for()
    assert page.locator("#answer").inner_text().startswith(MARKUP)
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Send").click()
    page.locator("#answer", has_text="é1").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#answer p", has_text="stopped").wait_for()


def test_one_answer_at_a_time_by_keyboard_too(opened):
    page = opened()
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/v1/chat/completions") else None)
    page.get_by_label("Prompt").focus()
    for _ in range(3):
        page.keyboard.press("Control+Enter")
    page.locator("#answer", has_text="é1").wait_for()
    assert len(asked) == 1
    page.get_by_role("button", name="Stop").click()
    page.locator("#answer p", has_text="stopped").wait_for()
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Control+Enter")
    page.locator("#answer", has_text="é1").wait_for()
    assert len(asked) == 2
