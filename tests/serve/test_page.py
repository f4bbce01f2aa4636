"""The page in a browser, against the service itself: what a visitor sees, hears and can reach."""

import csv
import io
import json
import shutil
import threading
import zipfile
from contextlib import contextmanager

import pytest
import uvicorn

from uniemox.config.serve import ServeConfig
from uniemox.demo.drawn import ARCHIVE
from uniemox.inference.predictor import Predictor
from uniemox.serve.app import Service, build_app
from uniemox.serve.site import EXAMPLES

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KEY = "a-key-of-the-tests"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load("demo", device="cpu")


@contextmanager
def serving(predictor, *, key=None):
    """Serve a model from a thread; give the address."""
    app = build_app(Service(predictor, ServeConfig(model="demo", workers=1, port=0)), key=key)
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", lifespan="on", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(predictor):
    with serving(predictor) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser here: install one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Open the page; what the browser complains of, or asks of another host, fails the test."""
    contexts, complaints = [], []

    def call(*, at=address, width=1280, routes=None, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([request.url] if is_foreign(request.url, at) else []))
        for path, answer in (routes or {}).items():
            page.route(f"{at}{path}", answer)
        page.goto(at)
        return page

    yield call
    for context in contexts:
        context.close()
    refusals = "Failed to load resource"  # a browser reports each status of an error
    assert [text for text in complaints if not text.startswith(refusals)] == []


def is_foreign(url, at):
    return not url.startswith((at, "blob:", "data:"))


@pytest.fixture(scope="module")
def drawings():
    """The examples as files: their bytes by name."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return {f"{name.split('/')[1]}.webp": archive.read(f"drawn6/image/{name}.webp") for name in EXAMPLES}


def files_of(contents):
    return [{"name": name, "mimeType": "image/webp", "buffer": content} for name, content in contents.items()]


def give(page, contents):
    """Choose files, and wait until none of them waits for its answer."""
    page.locator("#files").set_input_files(files_of(contents))
    page.locator(".card:not(.waiting)").nth(len(contents) - 1).wait_for()


def fulfil(*answers):
    """Answer the requests of a route in turn, the last for ever: from pairs of status and content."""
    left = list(answers)

    def answer(route):
        status, content = left.pop(0) if len(left) > 1 else left[0]
        headers = {"Retry-After": "1"} if status in (429, 503) else {}
        route.fulfill(status=status, json=content, headers=headers)

    return answer


def test_an_image_is_answered_as_the_library_answers_it(visit, predictor, drawings):
    page = visit()
    name, content = next(iter(drawings.items()))
    (expected,) = predictor.predict(content)
    give(page, {name: content})
    ranked = expected.top(len(expected.probabilities))
    assert "knows nothing of photographs" in page.locator("#notice").inner_text()
    card = page.locator(".card")
    assert card.locator("h3").inner_text().lower() == expected.predicted
    assert f"{100 * expected.confidence:.0f} %" in card.locator(".sure").inner_text()
    shown = dict(
        zip(card.locator("dt").all_inner_texts(), card.locator("dd:not(.track)").all_inner_texts(), strict=True)
    )
    assert list(shown) == [emotion for emotion, _ in ranked]
    assert {emotion: f"{100 * share:.0f} %" for emotion, share in ranked if share > 0.005}.items() <= shown.items()
    assert expected.predicted in page.get_by_role("status").inner_text()


def test_several_images_become_a_table_that_no_spreadsheet_computes(visit, predictor, drawings):
    page = visit()
    first, second, *_ = drawings.values()
    contents = {"=1+1.webp": first, '<b>x</b>, "y".webp': second, "broken.webp": b"no image"}
    give(page, contents)
    assert page.locator("figcaption").all_inner_texts() == list(contents)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save table").click()
    text = download.value.path().read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["name"] for row in rows] == ["'=1+1.webp", '<b>x</b>, "y".webp', "broken.webp"]
    assert [bool(row["reason"]) for row in rows] == [False, False, True]
    for row, expected in zip(rows, predictor.predict([first, second]), strict=False):
        assert row["predicted"] == expected.predicted
        assert [float(row[f"p_{name}"]) for name in predictor.facts.classes] == pytest.approx(
            list(expected.probabilities.values()), abs=1e-5
        )
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0


REMEMBER = """() => {
    const append = FormData.prototype.append;
    window.sent = {};
    FormData.prototype.append = function (name, ...rest) {
        window.sent[name] = rest[0];
        append.call(this, name, ...rest);
    };
}"""


def test_the_reasons_are_a_map_and_whether_the_person_or_the_scene_matters(visit, drawings):
    page = visit()
    give(page, dict([next(iter(drawings.items()))]))
    page.get_by_role("button", name="Why?").click()
    toggle = page.get_by_role("button", name="Map")
    toggle.wait_for()
    coloured = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    assert page.locator(".map").evaluate(coloured)
    assert page.locator(".reasons table").count() == 0
    toggle.click()
    assert not page.locator(".map").is_visible()

    page.get_by_role("button", name="Mark a person").click()
    frame = page.locator(".frame").bounding_box()
    page.mouse.move(frame["x"] + 0.2 * frame["width"], frame["y"] + 0.25 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.8 * frame["width"], frame["y"] + 0.95 * frame["height"])
    page.mouse.up()
    box = page.locator(".box").bounding_box()
    assert [box["x"] - frame["x"], box["y"] - frame["y"], box["width"], box["height"]] == pytest.approx(
        [0.2 * frame["width"], 0.25 * frame["height"], 0.6 * frame["width"], 0.7 * frame["height"]], abs=2
    )
    page.evaluate(REMEMBER)
    page.get_by_role("button", name="Why?").click()
    corners = json.loads(page.evaluate("window.sent.boxes"))
    assert corners == [pytest.approx([32, 40, 128, 152], abs=2)]
    table = page.locator(".reasons table")
    table.wait_for()
    assert table.locator("tr th:first-child").all_inner_texts() == ["", "people", "scene"]
    assert "iding the people" in page.locator(".reasons").inner_text()


def test_the_keyboard_alone_reaches_an_answer_its_reasons_and_a_box(visit):
    page = visit()
    press = page.keyboard.press
    focused = "document.activeElement"

    def tab_to(test):
        for _ in range(20):
            press("Tab")
            if page.evaluate(f"{test}"):
                return
        raise AssertionError(f"no focus on {test}")

    tab_to(f"{focused}.id === 'files'")
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    tab_to(f"{focused}.firstElementChild?.src.endsWith('0.webp')")
    press("Enter")
    page.locator(".card:not(.waiting)").wait_for()
    tab_to(f"{focused}.classList.contains('why')")
    press("Enter")
    page.get_by_role("button", name="Mark a person").wait_for()
    tab_to(f"{focused}.classList.contains('mark')")
    press("Enter")
    assert page.evaluate(f"{focused}.classList.contains('box')")
    before = page.locator(".box").bounding_box()
    press("ArrowRight")
    press("Shift+ArrowUp")
    after = page.locator(".box").bounding_box()
    assert after["x"] > before["x"]
    assert after["height"] < before["height"]
    press("Enter")
    page.locator(".reasons table").wait_for()


def test_axe_finds_nothing_serious_on_a_phone_whose_page_scrolls_down_alone(visit, drawings):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(width=390, bypass_csp=True)  # axe is injected
    give(page, drawings)
    page.locator(".why").first.click()
    page.get_by_role("button", name="Mark a person").first.click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found] == []
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_key_is_asked_for_and_sent(visit, predictor, drawings):
    with serving(predictor, key=KEY) as at:
        page = visit(at=at)
        secret = page.get_by_label("Key of this service")
        secret.fill("another-key-than-that")
        secret.press("Enter")
        page.get_by_text("does not know this key").wait_for()
        secret.fill(KEY)
        secret.press("Enter")
        secret.wait_for(state="hidden")
        give(page, drawings)
        assert page.locator("h3").count() == len(drawings)


def test_a_busy_service_is_asked_again_and_another_refusal_is_shown_beside_its_image(visit, address, drawings):
    row = {"name": "x", "index": 0, "predicted": "fear", "confidence": 0.6, "probabilities": {"fear": 0.6, "awe": 0.4}}
    answers = [
        (429, {"detail": "256 images are waiting already"}),
        (200, {"predictions": [row]}),
        (415, {"detail": "no image that is read here"}),
        (504, {"detail": "not answered within 30 s"}),
        (200, {"predictions": [row]}),
    ]
    page = visit(routes={"v1/predict": fulfil(*answers)})
    contents = dict(list(drawings.items())[:3])
    page.locator("#files").set_input_files(files_of(contents))
    page.get_by_text("trying again in 1 s").wait_for()
    page.get_by_role("alert").get_by_text("not answered within 30 s").wait_for()
    assert page.locator("h3").all_inner_texts() == ["Fear", "No answer", "Looking …"]
    assert page.locator(".sure").nth(1).text_content() == "no image that is read here"
    page.get_by_role("button", name="Try again").click()
    page.locator(".card:not(.waiting)").nth(2).wait_for()
    assert not page.get_by_role("alert").is_visible()


def test_without_a_connection_the_page_says_so(visit, drawings):
    page = visit(routes={"v1/predict": lambda route: route.abort()})
    page.locator("#files").set_input_files(files_of(drawings))
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()


OTHERS = (  # What differs in the description of a model, rows of an answer, and words on the page
    (
        {"label_set_level": 0.9, "caution": "was trained on drawings alone"},
        [
            {
                "predicted": "awe", "confidence": 0.45, "label_set": ["awe", "joy"], "abstains": True,
                "is_unfamiliar": True, "out_of_domain": 0.7, "probabilities": {"awe": 0.45, "joy": 0.4, "fear": 0.15},
            }
        ],
        ["Awe", "Unsure, 45 %", "One of awe or joy, at 90 %", "abstains", "Unlike the images", "trained on drawings"],
    ),
    (
        {},
        [{"predicted": [], "likeliest": "joy", "confidence": 0.4, "probabilities": {"joy": 0.4, "awe": 0.3}}],
        ["None of the labels", "Likeliest: joy, 40 %"],
    ),
    (
        {"units": "valence and arousal from 1 to 9", "classes": ["valence", "arousal"]},
        [{"valence": 6.123, "arousal": -2.5}],
        ["Valence 6.12, arousal −2.5", "Valence and arousal from 1 to 9"],
    ),
    (
        {"units": "valence from 1 to 9"},
        [{"predicted": "joy", "confidence": 0.99, "probabilities": {"joy": 1.0}, "valence": 7.25, "p_calm": 0.8}],
        ["Joy", "Very sure, 99 %", "Valence 7.25", "calm"],
    ),
    (
        {"detects": True, "emotion": "felt", "notice": "Prohibited at work: Article 5(1)(f)."},
        [{"predicted": "joy", "confidence": 0.8}, {"predicted": "awe", "confidence": 0.55, "box": {"x0": 1}}],
        ["What does a person in an image seem to feel?", "Article 5(1)(f)", "Person 1: awe. Rather unsure, 55 %"],
    ),
    (
        {"classes": [f"class {number}" for number in range(26)]},
        [{"predicted": "class 0", "probabilities": {f"class {number}": (26 - number) / 351 for number in range(26)}}],
        ["demo: 26 labels", "20 more"],
    ),
)  # fmt: skip


def test_answers_of_every_kind_are_put_in_words(visit, address, drawings):
    page, content = visit(), dict([next(iter(drawings.items()))])
    known = {
        "model": "demo", "classes": ["awe", "joy"], "emotion": "evoked", "units": "", "notice": None,
        "detects": False, "label_set_level": None, "limits": {"max_bytes": 10**7, "max_pixels": 10**7, "max_images": 1},
    }  # fmt: skip
    for about, rows, expected in OTHERS:
        predictions = [{"name": "x", "index": 0, "reason": None, "box": None} | row for row in rows]
        page.route(f"{address}v1/labels", fulfil((200, known | about)))
        page.route(f"{address}v1/predict", fulfil((200, {"predictions": predictions})))
        page.reload()
        give(page, content)
        text = page.locator("body").inner_text()
        assert [words for words in expected if words not in text] == []


def test_images_are_taken_by_dropping_and_pasting_too(visit, drawings):
    page = visit()
    content = next(iter(drawings.values()))
    send = """([kind, name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name));
        document.body.dispatchEvent(kind === 'drop'
            ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(send, [kind, f"{kind}.webp", list(content)])
    page.locator(".card:not(.waiting)").nth(1).wait_for()
    assert sorted(page.locator("figcaption").all_inner_texts()) == ["drop.webp", "paste.webp"]
