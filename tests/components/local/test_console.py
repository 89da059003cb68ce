"""The console in a real browser, served by the real runtime through the real gateway."""

import json
import re

import pytest

pytestmark = [
    pytest.mark.parts,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.usefixtures("browser"),  # first: without one nothing is started
]


@pytest.fixture
def page(browser, machine):
    """A page that may load nothing from anywhere else and must not fail in its script."""
    base = machine.ready["base_url"].removesuffix("/v1")
    made = browser.new_page(base_url=base, viewport={"width": 1280, "height": 900})
    made.set_default_timeout(60_000)
    trouble = []
    made.on("pageerror", lambda error: trouble.append(f"script: {error}"))
    made.on("request", lambda request: None if request.url.startswith((base, "data:")) else trouble.append(f"elsewhere: {request.url}"))
    yield made
    made.close()
    assert trouble == []


@pytest.fixture
def console(page, machine):
    """The page after it was opened with the admin key."""
    page.goto(f"/console#key={json.loads(machine.run('console'))['key']}")
    page.locator("#slot-green").wait_for()
    return page


def test_it_asks_for_a_key_and_takes_only_one_with_admin_scope(page, machine):
    page.goto("/console")
    page.get_by_label("API key").fill(machine.ready["api_key"])
    page.get_by_role("button", name="Connect").click()
    page.get_by_role("alert").filter(has_text="no admin scope").wait_for()
    page.get_by_label("API key").fill(json.loads(machine.run("console"))["key"])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Slots").wait_for()


def test_the_key_leaves_the_address_at_once(console):
    assert "#" not in console.url


def test_both_slots_stand_side_by_side_with_their_weights(console, machine):
    active = machine.status()["active_slot"]
    assert f"{active} 100 percent" in console.locator("#weights").get_attribute("aria-label")
    console.locator(f"#slot-{active}").get_by_text("ready, live").wait_for()
    boxes = [console.locator(f"#slot-{slot}").bounding_box() for slot in ("blue", "green")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]


def test_a_chat_streams_with_the_time_of_every_piece(console, machine):
    console.get_by_label("Longest answer").fill("24")
    console.get_by_label("Prompt").fill("Count from one to ten.")
    console.get_by_role("button", name="Send").click()
    console.locator("#gaps rect").nth(8).wait_for(state="attached")
    console.locator("#send:not([disabled])").wait_for()
    assert len(console.get_by_role("log").inner_text()) > 20
    timing = console.locator("#timing").inner_text()
    assert re.search(r"first token\s+[\d,]+ ms", timing)
    assert f"{machine.status()['active_slot']}, generation" in timing


def test_a_running_answer_can_be_stopped(console):
    console.get_by_label("Longest answer").fill("900")
    console.get_by_label("Prompt").fill("Write a very long story about the sea.")
    console.get_by_role("button", name="Send").click()
    console.locator("#gaps rect").nth(1).wait_for(state="attached")
    console.get_by_role("button", name="Stop").click()
    console.get_by_role("log").get_by_text("stopped").wait_for()


def test_it_can_be_used_by_keyboard_and_every_control_has_a_name(console):
    for control in console.locator("button, input, select, textarea").all():
        if control.is_visible():
            name = control.evaluate(
                "element => element.labels?.[0]?.textContent || element.getAttribute('aria-label') || element.textContent"
            )
            assert name.strip()
    console.keyboard.press("Tab")
    assert console.locator(":focus").inner_text() == "Skip to content"
    console.get_by_label("Longest answer").fill("4")
    console.get_by_label("Prompt").focus()
    console.keyboard.press("Control+Enter")
    console.locator("#send:not([disabled])").wait_for()


def test_text_has_contrast_in_light_and_dark(console):
    """At least 4.5 : 1 (WCAG 2.2, 1.4.3) for every text colour on the ground it stands on."""
    for scheme in ("light", "dark"):
        console.emulate_media(color_scheme=scheme)
        for name in ("--text", "--soft", "--bad", "--warn", "--blue", "--green"):
            for ground in ("--card", "--ground"):
                assert contrast(colour(console, name), colour(console, ground)) >= 4.5, (scheme, name, ground)
        for name in ("--accent", "--blue", "--green"):
            assert contrast(colour(console, "--on-accent"), colour(console, name)) >= 4.5, (scheme, name)


def test_it_fits_a_narrow_screen(console):
    console.set_viewport_size({"width": 360, "height": 800})
    assert console.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_alertmanager_it_says_how_to_get_alerts_and_with_it_that_nothing_fires(console):
    console.locator("#alerts li").filter(has_text=re.compile("Nothing fires|Alertmanager is not installed|since")).first.wait_for()


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([[0.1, 0], [0.2, 10], [None, 10]], 0.5, 0.15),
        ([[1, 5], [2, 10], [None, 10]], 0.95, 1.9),
        ([[1, 0], [None, 4]], 0.5, 1),
        ([[1, 0], [None, 0]], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_quantiles_are_those_of_prometheus(console, buckets, q, expected):
    answer = console.evaluate("async ([buckets, q]) => (await import('/console/samples.js')).quantile(buckets, q)", [buckets, q])
    assert answer == (None if expected is None else pytest.approx(expected))


def test_timing_of_an_answer_is_told_from_its_moments(console):
    answer = console.evaluate("async () => (await import('/console/samples.js')).timing(0, [100, 110, 120, 160])")
    assert answer == {"gaps": [100, 10, 10, 40], "first": 100, "median": 10, "p95": 40, "perSecond": 50}


def test_a_restarted_process_gives_no_negative_rates(console):
    script = """async () => {
      const { Samples } = await import('/console/samples.js');
      const seen = new Samples();
      const look = (time, count) => seen.add(time, { requests: count, generated_tokens: count, prompt_tokens: count });
      look(0, 50); look(2, 60); const before = seen.rate('requests'); look(4, 1); look(6, 3);
      return [before, seen.rate('requests')];
    }"""
    assert console.evaluate(script) == [5, 1]


def colour(page, name):
    text = page.evaluate("name => getComputedStyle(document.documentElement).getPropertyValue(name)", name).strip()
    return [int(text[index : index + 2], 16) / 255 for index in (1, 3, 5)]


def contrast(one, other):
    def luminance(channels):
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
