"""demo.py: what it answers, to many at once, and the page in a real browser."""

import io
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from PIL import Image

import cdcgan
import dcgan
import demo
from data import load_dataset
from generate import Neighbours
from support.drawing import draw_grid
from support.sampling import noise, sample
from tests.conftest import CLASSES, command, refusal
from tests.stand_ins import Payload
from training.classifier import classifier_for


def demo_checkpoint(script: str = "cdcgan") -> dict[str, Any]:
    """An untrained generator of CLASSES, as a run on the folder `pictures` leaves it."""
    torch.manual_seed(0)
    args = dict(z_dim=8, ngf=4, channels=1, image_size=28)
    if script == "cdcgan":
        args["num_classes"] = len(CLASSES)
    generator = cdcgan.Generator(**args) if script == "cdcgan" else dcgan.Generator(**args)
    for name, value in generator.state_dict().items():
        if "running_var" not in name and value.is_floating_point():
            value.normal_(0, 0.3)
    content = {"script": script, "dataset": "folder", "classes": list(CLASSES), "step": 0}
    return {**content, "generator_args": args, "ema": generator.state_dict()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "last.pt"
    torch.save(demo_checkpoint(), path)
    return path


@pytest.fixture(scope="module")
def client(checkpoint: Path, pictures: Path) -> FlaskClient:
    model = demo.Model(str(checkpoint), str(pictures), torch.device("cpu"))
    return demo.create_app(model).test_client()


def picture(client: FlaskClient, url: str) -> np.ndarray:
    answer = client.get(url)
    assert answer.status_code == 200 and answer.mimetype == "image/png", answer.text
    return np.asarray(Image.open(io.BytesIO(answer.data)).convert("L")).astype(int)


def test_samples_are_those_of_generate(client: FlaskClient, checkpoint: Path) -> None:
    generator, _ = demo.load_generator(checkpoint)
    images = sample(generator, 0.5 * noise(64, 8, seed=3)[:5], torch.full((5,), 1))
    expected = np.asarray(draw_grid(images, 3).convert("L"))
    found = picture(client, "/sample.png?class=coat&seed=3&n=5&z_scale=0.5")
    assert np.abs(found - expected).max() <= 1
    assert (found != picture(client, "/sample.png?class=coat&seed=3&n=5")).any()
    assert (found != picture(client, "/sample.png?class=bag&seed=3&n=5&z_scale=0.5")).any()


def test_a_seed_means_the_same_however_many(client: FlaskClient) -> None:
    one, many = (picture(client, f"/sample.png?class=bag&seed=7&n={n}") for n in (1, 64))
    assert np.abs(many[2:58, 2:58] - one).max() <= 1  # one alone has no frame
    assert picture(client, "/sample.png?n=64").shape == ((8 * 29 + 1) * 2,) * 2


def test_a_walk_goes_from_the_one_to_the_other(client: FlaskClient) -> None:
    start, end = "/sample.png?class=bag&seed=1&n=4", "/sample.png?class=shoe&seed=2&n=4"
    walk = start + "&to_class=shoe&to_seed=2&t="
    assert np.abs(picture(client, walk + "0") - picture(client, start)).max() <= 1
    assert np.abs(picture(client, walk + "1") - picture(client, end)).max() <= 1
    between = picture(client, walk + "0.5")
    assert np.abs(between - picture(client, start)).max() > 1
    assert np.abs(between - picture(client, end)).max() > 1


def test_what_a_query_leaves_out(client: FlaskClient) -> None:
    """16 samples, as they are; a walk without an end stays where it is."""
    plain = picture(client, "/sample.png?class=bag&seed=3")
    every = "class=bag&seed=3&n=16&z_scale=1&to_class=bag&to_seed=3"
    assert np.array_equal(plain, picture(client, f"/sample.png?{every}&t=0"))
    assert np.abs(plain - picture(client, "/sample.png?class=bag&seed=3&t=0.5")).max() <= 1
    in_turn = picture(client, "/sample.png?seed=3")
    for i, name in enumerate(CLASSES):  # the first row's cells
        cell = np.s_[2:58, 58 * i + 2 : 58 * i + 58]
        one = picture(client, f"/sample.png?seed=3&class={name}")
        assert np.abs(in_turn[cell] - one[cell]).max() <= 1
    assert np.array_equal(picture(client, "/sample.png?seed=0"), picture(client, "/sample.png"))


def test_the_command_serves_the_model_it_is_given(
    checkpoint: Path,
    pictures: Path,
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With its data and precision; it says where, and nothing of a request that went well."""
    urls = ("/sample.png?class=bag&seed=3", "/classes", "/sample.png?n=0")
    given: list[tuple[object, ...]] = []
    answers: list[bytes] = []

    class Model(demo.Model):
        def __init__(self, *args: Any) -> None:
            given.append(args)
            super().__init__(*args)

    def ask(address: str) -> bytes:
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            return error.read()

    def serve(server: demo.ThreadedWSGIServer) -> None:
        assert not server.daemon_threads  # they may finish
        with ThreadPoolExecutor(1) as pool:
            for url in urls:
                asked = pool.submit(ask, f"http://127.0.0.1:{server.port}{url}")
                server.handle_request()
                answers.append(asked.result())

    monkeypatch.setattr(demo, "Model", Model)
    monkeypatch.setattr(demo.ThreadedWSGIServer, "serve_forever", serve)
    where = ["--load_path", str(checkpoint), "--data_dir", str(pictures), "--device", "cpu"]
    demo.main([*where, "--port", "0", "--precision", "bf16"])
    assert given == [(str(checkpoint), str(pictures), torch.device("cpu"), "bf16")]
    said = r"open http://127\.0\.0\.1:[1-9]\d+ in a browser; stop with Ctrl-C\nstopped\n"
    assert re.fullmatch(said, capsys.readouterr().out)
    (logged,) = caplog.messages
    assert "/sample.png?n=0" in logged
    rough, *others = answers
    exact, *expected = (client.get(url).data for url in urls)
    assert others == expected
    one, other = (np.asarray(Image.open(io.BytesIO(x)), int) for x in (rough, exact))
    assert 0 < np.abs(one - other).mean() < 3  # the precision is another


def test_the_old_call_and_the_page(client: FlaskClient) -> None:
    accepted = ("image/avif,*/*;q=0.8", "image/png,image/svg+xml,*/*;q=0.8")  # by two browsers
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "image/png"}):
        answer = client.get("/?generate_sample=Shoe", headers=headers)
        assert answer.mimetype == "image/png"
        assert Image.open(io.BytesIO(answer.data)).size == (56, 56)
    for url, images in itertools.product(("/", "/?generate_sample=Shoe"), accepted):
        answer = client.get(url, headers={"Accept": f"text/html,application/xml;q=0.9,{images}"})
        assert answer.mimetype == "text/html" and "<title>" in answer.text
    answer = client.get("/classes")
    assert answer.get_json() == {"classes": list(CLASSES), "model": "cdcgan.py on folder"}
    # Nothing on the page comes from elsewhere.
    assert not re.findall(r"(?:src|href)=\"?(?:https?:)?//", demo.PAGE.read_text())


def test_neighbours_are_those_of_the_sample(
    client: FlaskClient, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first there is no classifier yet: a request trains none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "/neighbours.png?class=coat&seed=3&n=16&index="
    assert "no classifier of" in client.get(url + "15").text
    device = torch.device("cpu")
    classifier_for(load_dataset("folder", pictures, 28), pictures, device)
    found = picture(client, url + "15")
    assert found.shape == ((2 * 29 + 1) * 2, (4 * 29 + 1) * 2)  # two rows of four
    checkpoint = demo_checkpoint()
    nearest = Neighbours(checkpoint, str(pictures), device)
    generator = cdcgan.Generator(**checkpoint["generator_args"]).eval()
    generator.load_state_dict(checkpoint["ema"])
    image = sample(generator, noise(64, 8, seed=3)[15:16], torch.tensor([1]))
    expected = np.asarray(draw_grid(nearest(image, 8)[0], 4).convert("L"))
    assert (found == expected).mean() > 0.8  # two images as far away may swap places


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("n=0", "n=0: give a whole number from 1 to 64"),
        ("n=65", "n=65"),
        ("n=1e9", "n=1e9"),
        ("n=many", "n=many"),
        ("n=1.5", "n=1.5: give a whole number"),
        ("n=a%0Ab", "n=a b"),
        ("index=00009999", "index=00009999"),
        ("index=0000" + "9" * 5000, "index=0000"),
        ("seed=-1", "seed=-1"),
        ("seed=9223372036854775808", "seed=9223372036854775808"),
        ("to_seed=x", "to_seed=x"),
        ("z_scale=nan", "z_scale=nan"),
        ("z_scale=2.1", "z_scale=2.1"),
        ("t=1.5", "t=1.5"),
        ("class=sofa", "sofa"),
        ("to_class=3", "3"),
        ("class=%00%F0%9F%91%9F", "class"),
        ("index=4", "index=4"),
        ("index=-1", "index=-1"),
        ("index=" + "9" * 5000, "index=999"),
        ("index=%C2%B2", "index="),  # a superscript two, which is a digit to some
        ("clas=bag", "'clas': /sample.png takes class, seed, n, z_scale, to_class, to_seed, t"),
        ("Class=bag", "'Class'"),
        ("class=bag&index_=1&index=1", "index_"),
        ("generate_sample=bag", "generate_sample"),
        ("index=1&x", "'x': /neighbours.png takes class"),
        ("class=bag&class=coat", "class is given 2 times: give it once"),
        ("seed=1&n=4&seed=1", "seed is given 2 times"),
        ("index=1&index=2", "index is given 2 times"),
        ("%0A" + "y" * 5000 + "=1", "takes class"),
    ],
)
def test_bad_requests_are_a_line(query: str, says: str, client: FlaskClient) -> None:
    page = "neighbours.png?n=4&" if "index" in query else "sample.png?"
    answer = client.get(f"/{page}{query}")
    assert answer.status_code == 400
    assert says in answer.text and answer.text.count("\n") == 1 and len(answer.text) < 300


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/?generate_sampel=bag", "'generate_sampel': / takes generate_sample, seed"),
        ("/?generate_sample=bag&n=4", "'n': / takes"),
        ("/?generate_sample=bag&generate_sample=coat", "generate_sample is given 2 times"),
        ("/?generate_sample=bag&seed=1&seed=2", "seed is given 2 times"),
        ("/?generate_sample=bag&seed=-1", "seed=-1: give a whole number"),
        ("/?generate_sample=bag&seed=x", "seed=x: give a whole number"),
        ("/?generate_sample=sofa", "sofa"),
        ("/?x=", "'x'"),
        ("/classes?class=bag", "'class': /classes takes none"),
    ],
)
def test_no_query_is_overlooked(url: str, says: str, accept: str, client: FlaskClient) -> None:
    answer = client.get(url, headers={"Accept": accept})
    assert answer.status_code == 400 and answer.mimetype == "text/plain"
    assert says in answer.text and answer.text.count("\n") == 1


def test_the_seed_of_one_sample_counts(client: FlaskClient) -> None:
    three = picture(client, "/?generate_sample=bag&seed=3")
    assert np.array_equal(three, picture(client, "/?generate_sample=bag&seed=3"))
    assert np.array_equal(three, picture(client, "/sample.png?class=bag&seed=3&n=1"))
    assert not np.array_equal(three, picture(client, "/?generate_sample=bag&seed=4"))
    one, other = (picture(client, "/?generate_sample=bag") for _ in range(2))
    assert not np.array_equal(one, other)  # without a seed: another sample every time


def test_what_the_page_asks_for_is_known() -> None:
    """Its script names the controls that it sends; each must be one of the path's."""
    page = demo.PAGE.read_text()
    (names,) = re.findall(r"const names = \[(.*?)\]", page)
    assert sorted(re.findall(r'"(\w+)"', names)) == sorted(demo.QUERY_NAMES["/sample.png"])
    assert {*re.findall(r'given.get\("(\w+)"\)', page)} == {*demo.QUERY_NAMES["/"]}
    # Each control that the script uses is on the page once; its bounds are the server's.
    used = {*re.findall(r'by\("(\w+)"\)', page), *re.findall(r'"(\w+)"', names)}
    ids = re.findall(r' id="(\w+)"', page)
    assert len(ids) == len(set(ids)) and used <= set(ids)
    bounds = dict(re.findall(r'id="(z_scale|t)" type="range" (min="\S+" max="\S+")', page))
    assert bounds == {"z_scale": 'min="0" max="2"', "t": 'min="0" max="1"'}
    numbers = [int(number) for number in re.findall(r"<option[^>]*>(\d+)", page)]
    assert numbers == [4, 16, 36, demo.MOST_IMAGES] and "<option selected>16" in page


def test_what_is_not_there(client: FlaskClient, tmp_path: Path) -> None:
    assert client.get("/?generate_sample=sofa").status_code == 400
    assert client.get("/etc/passwd").status_code == 404
    assert client.post("/classes").status_code == 405
    torch.save(demo_checkpoint("dcgan"), tmp_path / "last.pt")
    model = demo.Model(str(tmp_path / "last.pt"), str(tmp_path / "nowhere"), torch.device("cpu"))
    unconditional = demo.create_app(model).test_client()
    assert picture(unconditional, "/sample.png?n=9").shape == ((3 * 29 + 1) * 2,) * 2
    assert unconditional.get("/classes").get_json()["classes"] == []
    for url in ("/?generate_sample=bag", "/sample.png?class=bag", "/neighbours.png?index=0"):
        assert unconditional.get(url).status_code == 400


def test_bad_starts(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--load_path", str(checkpoint), "--device", "cpu"]
    assert "--port 70000" in refusal(demo.main, [*load, "--port", "70000"], capsys)
    assert "nowhere.invalid" in refusal(demo.main, [*load, "--host", "nowhere.invalid"], capsys)
    assert "valid host name" in refusal(demo.main, [*load, "--host", "\u00e4..b"], capsys)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}" in refusal(demo.main, [*load, "--port", port], capsys)
    assert "nowhere.pt" in refusal(demo.main, ["--load_path", "nowhere.pt"], capsys)
    good = demo_checkpoint()
    for part in ({"classes": [*CLASSES, "sofa"]}, {"classes": 3}, {"dataset": None}):
        torch.save(good | part, tmp_path / "unfit.pt")
        load = ["--load_path", str(tmp_path / "unfit.pt")]
        assert "unfit.pt does not fit" in refusal(demo.main, load, capsys)
    torch.save({"script": Payload(tmp_path / "ran")}, tmp_path / "payload.pt")
    assert "refused" in refusal(demo.main, ["--load_path", str(tmp_path / "payload.pt")], capsys)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def server(checkpoint: Path, pictures: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A real demo.py: its address and process. It must end by Ctrl-C, without a traceback."""
    dataset = load_dataset("folder", pictures, 28)
    classifier_for(
        dataset, pictures, torch.device("cpu")
    )  # of ten steps: the server's would be good
    argv = ["--load_path", str(checkpoint), "--data_dir", str(pictures), "--port", "0"]
    process = subprocess.Popen(
        command("demo.py", *argv, "--device", "cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Where the tests are a shell's background job, their children would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[1], process
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and "stopped" in out and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the server's size in /proc")
def test_32_clients_at_once(server: tuple[str, subprocess.Popen[str]]) -> None:
    """All are answered, with what each asked for; memory and threads stay bounded."""
    address, process = server

    def memory() -> int:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def threads() -> int:
        return len(list(Path(f"/proc/{process.pid}/task").iterdir()))

    most = 0

    def ask(seed: int) -> bytes:
        nonlocal most
        most = max(most, threads())
        url = f"{address}/sample.png?n=16&seed={seed % 8}&class={CLASSES[seed % 3]}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()

    def bad(_: int) -> int:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{address}/sample.png?n=1000", timeout=60)
        return error.value.code

    with ThreadPoolExecutor(32) as pool:
        first = list(pool.map(ask, range(96)))
        before = memory()
        assert list(pool.map(ask, range(96))) == first
        assert set(pool.map(bad, range(32))) == {400}
    assert len(set(first)) == 24  # of 8 seeds and 3 classes
    assert memory() - before < 30e6
    time.sleep(0.5)
    assert most < threads() + 40  # one for every client; the drawing has its own


@pytest.mark.slow
def test_the_page_in_chromium(server: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    """A reader's visit: the page draws, follows its controls, and shows a sample's neighbours.

    DEMO_SCREENSHOTS=FOLDER keeps what it looked like.
    """
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    driver_path = shutil.which("chromedriver")
    assert driver_path, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    quiet = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    quiet += " disable-component-update disable-sync"
    for flag in (*quiet.split(), "headless=new", f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        wait = WebDriverWait(browser, 20)
        browser.get(server[0] + "/?generate_sample=coat&seed=7")
        samples = browser.find_element(By.ID, "samples")

        seen: list[str] = []

        def look() -> None:
            """Wait for a new grid, and keep it."""
            ready = "return arguments[0].complete && arguments[0].src.startsWith('blob:')"
            wait.until(
                lambda _: (
                    browser.execute_script(ready, samples)
                    and samples.screenshot_as_base64 not in seen
                )
            )
            seen.append(samples.screenshot_as_base64)

        model = browser.find_element(By.ID, "model")
        wait.until(lambda _: model.text == "cdcgan.py on folder")
        kind = Select(browser.find_element(By.ID, "class"))
        assert kind.first_selected_option.text == "coat"
        assert browser.find_element(By.ID, "seed").get_property("value") == "7"
        assert [option.text for option in kind.options] == ["all in turn", *CLASSES]
        look()
        changes = {"class": "bag", "z_scale": 0.3, "t": 0.5, "seed": 5, "to_class": "shoe"}
        for name, value in changes.items():  # each changes what is seen
            set_value = "arguments[0].value = arguments[1];"
            tell = "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
            element = browser.find_element(By.ID, name)
            browser.execute_script(set_value + tell, element, value)
            look()
        samples.click()
        nearest = browser.find_element(By.ID, "nearest")
        wait.until(lambda _: nearest.is_displayed() and nearest.size["height"] > 20)
        assert browser.find_element(By.ID, "mark").is_displayed()
        assert browser.find_element(By.ID, "error").text == ""
        folder = os.environ.get("DEMO_SCREENSHOTS")
        for name, width in (("wide", 1000), ("narrow", 400)):
            for scheme in ("light", "dark"):
                browser.set_window_size(width, 900)
                feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
                inner = browser.execute_script("return document.documentElement.scrollWidth")
                assert inner <= browser.execute_script("return window.innerWidth")
                if folder:
                    browser.save_screenshot(str(Path(folder) / f"{name}-{scheme}.png"))
    finally:
        browser.quit()
