"""Every page of site/ in a real browser: no complaint on its console, nothing wider than a phone.

make docs && python tools/browse.py           # needs chromium (or CHROMIUM=/path/to/it)
"""

from __future__ import annotations

import functools
import html
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SITE = Path(__file__).parent.parent / "site"
WIDTHS = (390, 1280)
HARNESS = """<!doctype html><title>harness</title><body><script>
const found = [], frame = document.createElement("iframe");
document.body.append(frame);
async function visit(page, width) {
  frame.style = `width:${width}px; height:844px`;
  await new Promise(done => { frame.onload = done; frame.src = page; });
  await new Promise(done => setTimeout(done, 150));
  const root = frame.contentDocument.documentElement;
  const broken = [...frame.contentDocument.images].filter(i => !i.naturalWidth).map(i => i.src);
  const words = frame.contentDocument.querySelector("article")?.innerText.length ?? 0;
  found.push({page, width, wide: root.scrollWidth, broken, words});
}
(async () => {
  for (const page of PAGES) for (const width of WIDTHS) await visit(page, width);
  document.body.innerHTML = "<pre>" + JSON.stringify(found).replaceAll("<", "&lt;") + "</pre>";
})();
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """The site, and the page that visits its pages."""

    def do_GET(self) -> None:
        if self.path != "/__harness":
            return super().do_GET()
        pages = sorted("/" + path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
        pages = [page for page in pages if page != "/404.html"]
        text = HARNESS.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """The command."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        ended = subprocess.run(
            [
                os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox",
                "--disable-gpu", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
                "--enable-logging=stderr", "--window-size=1400,900", "--virtual-time-budget=120000",
                "--dump-dom", f"http://127.0.0.1:{server.server_port}/__harness",
            ],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    server.shutdown()
    problems = re.findall(r"CONSOLE.*", ended.stderr)
    match = re.search(r"<pre>(.*)</pre>", ended.stdout, re.DOTALL)
    visits = json.loads(html.unescape(match[1])) if match else []
    for visit in visits:
        where = f"{visit['page']} at {visit['width']} px"
        if visit["wide"] > visit["width"]:
            problems.append(f"{where} is {visit['wide']} px wide")
        problems += [f"{where}: no picture at {source}" for source in visit["broken"]]
        if not visit["words"]:
            problems.append(f"{where} shows no text")
    print("\n".join(problems) or f"{len(visits)} visits, nothing to complain of")
    sys.exit(bool(problems) or not visits)


if __name__ == "__main__":
    main()
