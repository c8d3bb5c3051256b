"""Exported folders in transformers.js, in Node and on a page in a browser.

Nothing comes from another server: the library is in tests/js/node_modules, and the page, the
library and the models are served on this machine. To install what is missing: `make test-js`.
"""

import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from cpu import INT8_SATURATES
from tiny_transformers import FAMILIES, LABELS, TAGS, logits, texts, write

from bert_of_theseus import Predictor
from bert_of_theseus.deploy import export_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.only("torch"),
    pytest.mark.skipif(INT8_SATURATES, reason="8 bits saturate on a CPU without VNNI"),
]

JS = Path(__file__).parents[1] / "js"
NODE = shutil.which("node")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIBRARY = JS / "node_modules/@huggingface/transformers"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TASKS = {"Sequence": "text-classification", "Token": "token-classification"}
# ALBERT for tokens is not in transformers.js. One model has a real one's width, the others 16.
MODELS = {
    **{f"{family}-Sequence": (family, "Sequence", {}) for family in FAMILIES},
    **{f"{family}-Token": (family, "Token", {}) for family in FAMILIES if family != "albert"},
    "many": ("bert", "Sequence", {"problem_type": "multi_label_classification"}),
    "large": (
        "bert",
        "Sequence",
        {"hidden_size": 384, "num_attention_heads": 12, "num_hidden_layers": 3}
        | {"intermediate_size": 1536, "scale": 0.03},
    ),
}
TEXTS = texts(6, seed=3)


def missing(*what):
    """A mark that says what is not installed."""
    names = [name for name, found in what if not found]
    return pytest.mark.skipif(bool(names), reason=f"no {', '.join(names)}: see `make test-js`")


library = ("tests/js/node_modules", LIBRARY.is_dir())


@pytest.fixture(scope="module")
def request_and_models(tmp_path_factory):
    """The models, exported, with what each runs for; and those of `transformers`."""
    folder, models = tmp_path_factory.mktemp("models"), {}
    for name, (family, task, config) in MODELS.items():
        models[name] = write(folder / name, family, task, **config)
        export_folder(folder / name, onnx=(None, "int8"))
    tasks = {name: TASKS[task] for name, (_, task, _) in MODELS.items()}
    return {"folder": f"{folder}/", "models": tasks, "texts": TEXTS}, models


def check(scores, request, models):
    """The labels of `Predictor` and the scores of `transformers`, close in float32."""
    assert set(scores) == {f"{name} {dtype}" for name in models for dtype in ("fp32", "q8")}
    for key, rows in scores.items():
        name, dtype = key.split()
        tolerance = 1e-3 if dtype == "fp32" else 0.15
        kind = {"fp32": "onnx", "q8": "int8.onnx"}[dtype]
        predictor = Predictor.load(f"{request['folder']}{name}", kind=kind)
        for text, row, ours in zip(TEXTS, rows, predictor.predict(TEXTS), strict=True):
            expected = logits(*models[name], text)
            if request["models"][name] == TASKS["Token"]:
                expected = scipy.special.softmax(expected, axis=-1)[1:-1]
                assert [x["entity"] for x in row] == [x["label"] for x in ours["tokens"]]
                for found, scores_of_token in zip(row, expected, strict=True):
                    label = TAGS.index(found["entity"])
                    assert abs(found["score"] - scores_of_token[label]) < tolerance
                continue
            many = name == "many"
            expected = scipy.special.expit(expected) if many else scipy.special.softmax(expected)
            found = {x["label"]: x["score"] for x in row}
            assert max(found, key=found.get) == next(iter(ours["probabilities"]))
            np.testing.assert_allclose([found[x] for x in LABELS], expected, atol=tolerance)


@missing(("node", NODE), library)
def test_in_node(request_and_models, tmp_path):
    request, models = request_and_models
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [NODE, str(JS / "node.mjs"), str(tmp_path / "request.json")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), request, models)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves tests/js, the models under /models/, and the request; takes the page's answer."""

    request_json: dict
    answers: queue.Queue

    def guess_type(self, path):
        known = {".mjs": "text/javascript", ".wasm": "application/wasm"}
        return known.get(Path(path).suffix) or super().guess_type(path)

    def translate_path(self, path):
        folder, name = str(JS), path
        if path.startswith("/models/"):
            folder, name = self.request_json["folder"], path.removeprefix("/models/")
        self.directory = folder
        return super().translate_path(f"/{name}")

    def do_GET(self):
        if self.path != "/request":
            return super().do_GET()
        content = json.dumps(self.request_json).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.answers.put(json.loads(content))

    def log_message(self, *arguments):
        """Nothing."""


@contextmanager
def served(request):
    """The page's address, and a queue of its answers."""
    handler = type("Handler", (Handler,), {"request_json": request, "answers": queue.Queue()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/page.html", handler.answers
        finally:
            server.shutdown()
            thread.join()


@missing(("chromium", BROWSER), library)
def test_on_a_page(request_and_models, tmp_path):
    request, models = request_and_models
    log = tmp_path / "log"
    with (
        served(request) as (page, answers),
        open(log, "w") as stream,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", page]
        browser = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            answer = answers.get(timeout=600)
        except queue.Empty:
            pytest.fail(f"The page did not answer. {log.read_text()[-2000:]}")
        finally:
            browser.terminate()
            browser.wait(30)
    assert "error" not in answer, answer["error"]
    check(answer["scores"], request, models)
