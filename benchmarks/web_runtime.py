"""A compiled model in transformers.js: in Node, and on a page in headless Chromium, with the checkpoint's tokens.

    npm install --prefix /tmp/webtry --ignore-scripts @huggingface/transformers
    apt-get install chromium
    python benchmarks/web_runtime.py --modules /tmp/webtry/node_modules --picture docs/web-page.png

Compiles the embedded model to 60 % with layers that differ (or takes `--out`), opens each type of weights in
transformers.js, and prints a table: whether its greedy tokens are those of the checkpoint, and those of the same file
in onnxruntime. What is not installed is said to be so. docs/runtimes.md has what was found. It takes about 3 minutes.
"""

import argparse
import functools
import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPT, COUNT = "Once upon a time", 24
TYPES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}
NODE = """
import { AutoTokenizer, AutoModelForCausalLM, env } from '@huggingface/transformers';
const [folder, prompt, count, ...types] = process.argv.slice(2);
env.allowRemoteModels = false; env.localModelPath = folder;
const tokenizer = await AutoTokenizer.from_pretrained('web');
const made = {};
for (const dtype of types) {
    try {
        const model = await AutoModelForCausalLM.from_pretrained('web', { dtype });
        const out = await model.generate({ ...tokenizer(prompt), max_new_tokens: Number(count), do_sample: false });
        made[dtype] = Array.from(out.tolist()[0], Number);
    } catch (error) { made[dtype] = String(error).slice(0, 200); }
}
console.log(JSON.stringify(made));
"""
PAGE = """<!doctype html><meta charset="utf-8"><title>graphprune</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 46em; color: #222 }
pre { background: #f4f4f2; padding: .8em; white-space: pre-wrap } td, th { padding: .1em 1em .1em 0; text-align: left }
</style>
<h1>The demo model, cut to 60 %, in this browser</h1>
<p>Its layers differ, and transformers.js reads the cache of each from the ONNX graph. Prompt: <b id="prompt"></b></p>
<div id="made">loading</div><p id="where"></p>
<script type="module">
import { AutoTokenizer, AutoModelForCausalLM, env } from '/modules/@huggingface/transformers/dist/transformers.min.js';
env.allowRemoteModels = false; env.allowLocalModels = true; env.localModelPath = '/models/';
env.backends.onnx.wasm.wasmPaths = '/modules/onnxruntime-web/dist/';
const asked = await (await fetch('/asked')).json(), made = {}, place = document.getElementById('made');
document.getElementById('prompt').textContent = asked.prompt;
place.textContent = '';
try {
    const tokenizer = await AutoTokenizer.from_pretrained('web');
    for (const dtype of asked.types) {
        const begun = performance.now();
        try {
            const model = await AutoModelForCausalLM.from_pretrained('web', { dtype, device: 'wasm' });
            const options = { max_new_tokens: asked.count, do_sample: false };
            const out = await model.generate({ ...tokenizer(asked.prompt), ...options });
            made[dtype] = Array.from(out.tolist()[0], Number);
        } catch (error) { made[dtype] = String(error).slice(0, 200); }
        const text = Array.isArray(made[dtype]) ? tokenizer.decode(made[dtype]) : made[dtype];
        const head = document.createElement('b'), body = document.createElement('pre');
        head.textContent = `${dtype}, loaded and ${asked.count} tokens in ${Math.round(performance.now() - begun)} ms`;
        body.textContent = text;
        place.append(head, body);
    }
} catch (error) { made.page = String(error).slice(0, 300); }
document.getElementById('where').textContent = `transformers.js ${env.version}, WebAssembly`;
await fetch('/made', { method: 'POST', body: JSON.stringify(made) });
</script>
<img src="/wait" alt="">
"""


class Pages(http.server.SimpleHTTPRequestHandler):
    """The page, the model and the modules; what the page made goes to `answers`. /wait ends when the page has."""

    def __init__(self, *given: Any, places: dict[str, Path], asked: dict[str, Any], answers: Any, done: Any) -> None:
        self.places, self.asked, self.answers, self.done = places, asked, answers, done
        super().__init__(*given)

    def translate_path(self, path: str) -> str:
        first, _, rest = path.split("?")[0].lstrip("/").partition("/")
        return str(self.places.get(first, Path("/nowhere")) / rest)

    def do_GET(self) -> None:
        if self.path == "/":
            self.answer(PAGE.encode(), "text/html")
        elif self.path == "/asked":
            self.answer(json.dumps(self.asked).encode(), "application/json")
        elif self.path == "/wait":
            self.done.wait(timeout=240)
            self.answer(b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", "image/svg+xml")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(b"{}", "application/json")
        self.done.set()

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the table is all that is printed."""


def in_node(out: Path, modules: Path) -> dict[str, Any]:
    script = modules.parent / "graphprune-try.mjs"  # beside the modules, where node finds them
    script.write_text(NODE)
    try:
        command = ["node", str(script), str(out), PROMPT, str(COUNT), *types_in(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    finally:
        script.unlink()
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else {"node": done.stderr[-300:]}


def in_chromium(out: Path, modules: Path, picture: Path) -> dict[str, Any]:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    done = threading.Event()
    asked = {"prompt": PROMPT, "count": COUNT, "types": list(types_in(out))}
    places = {"models": out, "modules": modules}
    handler = functools.partial(Pages, places=places, asked=asked, answers=answers, done=done)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        look = ["--window-size=900,1150", "--hide-scrollbars", f"--screenshot={picture.absolute()}", "--timeout=240000"]
        safe = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        url = f"http://127.0.0.1:{server.server_port}/"
        try:
            subprocess.run(["chromium", *safe, *look, url], capture_output=True, check=False, timeout=300)
        finally:
            server.shutdown()
    return answers.get_nowait() if not answers.empty() else {"chromium": "the page gave no answer"}


def types_in(out: Path) -> dict[str, str]:
    """The types of weights that a folder has files of, with what their names end in."""
    return {kind: end for kind, end in TYPES.items() if (out / "web" / "onnx" / f"model{end}.onnx").is_file()}


def in_python(out: Path) -> dict[str, list[int]]:
    """The tokens of the checkpoint, and of each file in onnxruntime."""
    import torch
    import transformers

    from graphprune.backends.runtime.runner import load

    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(out, trust_remote_code=True, dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(out)(PROMPT, return_tensors="pt")
    made = {"checkpoint": model.generate(**ids, max_new_tokens=COUNT, do_sample=False)[0].tolist()}
    prompt = ids["input_ids"][0].tolist()
    for name, suffix in types_in(out).items():
        made[name] = prompt + load(out / "web" / "onnx" / f"model{suffix}.onnx").generate([prompt], COUNT)[0]
    return made


def compile_demo(out: Path) -> None:
    from graphprune.compiler.compile import compile_model
    from graphprune.pipeline.options import CompileOptions

    compile_model(CompileOptions("demo", "60%", out=out, runtime="web"))


def verdict(found: Any, wanted: Sequence[int]) -> str:
    if not isinstance(found, list):
        return f"failed: {found}"
    same = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    return "equal" if found == list(wanted) else f"equal up to token {same} of {len(wanted)}"


def version_of(modules: Path, package: str) -> str:
    return str(json.loads((modules / package / "package.json").read_text())["version"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=Path, default=Path("/tmp/webtry/node_modules"))
    parser.add_argument("--out", type=Path, help="a folder that `compile --for web` wrote")
    parser.add_argument("--picture", type=Path, default=Path(tempfile.gettempdir()) / "web-page.png")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = given.out or Path(name) / "out"
        if given.out is None:
            compile_demo(out)
        types = types_in(out)
        wanted, found = in_python(out), dict[str, dict[str, Any]]()
        tried = {"node": in_node, "chromium": functools.partial(in_chromium, picture=given.picture)}
        for program, run in tried.items():
            found[program] = run(out, given.modules) if shutil.which(program) else {program: "is not installed"}
    packages = ("@huggingface/transformers", "onnxruntime-node", "onnxruntime-web")
    print(", ".join(f"{package} {version_of(given.modules, package)}" for package in packages))
    print("| where | weights | the checkpoint's tokens | the same file in onnxruntime |\n|---|---|---|---|")
    for program, made in found.items():
        for kind in types:
            tokens = made.get(kind, next(iter(made.values()), None))
            print(f"| {program} | {kind} | {verdict(tokens, wanted['checkpoint'])} | {verdict(tokens, wanted[kind])} |")


if __name__ == "__main__":
    main()
