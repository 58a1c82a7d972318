"""A real headless browser that looks at a page: what it lays out, says and asks the network for."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from tiny import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MISSING = "there is no Chromium here: pages are not looked at in a browser (apt install chromium)"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--window-size=1600,1200",
)
# The browser's own requests (its clock, its dictionaries) must not leave the machine either.
_NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
# Frames, because a window has a least width; measured once they are laid out and painted.
_HARNESS = """<!doctype html><meta charset="utf-8"><body>{frames}<pre id="out"></pre><script>
const look = (frame) => {{
  const root = frame.contentDocument.documentElement, view = frame.contentWindow;
  const outside = [...root.querySelectorAll("svg text")].filter((text) => {{
    const a = text.getBoundingClientRect();
    const b = text.closest("figure").getBoundingClientRect();
    return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom;
  }});
  const ink = root.querySelector("svg text");
  return {{
    scroll_width: root.scrollWidth,
    client_width: root.clientWidth,
    heads: [...root.querySelectorAll("thead tr")].map((row) => [...row.children].map(
      (head) => [head.textContent, Math.round(head.getBoundingClientRect().right)])),
    lines: Object.fromEntries([...root.querySelectorAll("tbody th")].map((head) => {{
      const text = frame.contentDocument.createRange();
      text.selectNodeContents(head);
      const line = parseFloat(view.getComputedStyle(head).lineHeight);
      return [head.textContent.trim(), Math.round(text.getBoundingClientRect().height / line)];
    }})),
    outside: outside.map((text) => text.textContent),
    background: view.getComputedStyle(frame.contentDocument.body).backgroundColor,
    ink: ink ? view.getComputedStyle(ink).fill : "",
    elements: Object.fromEntries(["script", "img", "svg", "figure", "mark"].map(
      (name) => [name, root.querySelectorAll(name).length])),
    handlers: [...root.querySelectorAll("*")].filter((element) =>
      [...element.attributes].some((a) => a.name.startsWith("on"))).length,
    text: root.innerText,
  }};
}};
addEventListener("load", () => {{
  out.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
}});
</script>"""


@dataclass(frozen=True)
class Visit:
    """What the browser made of a page at each width asked for."""

    looks: list[dict[str, Any]]
    console: list[str]
    requests: list[str]  # made by the page, to anything but files


def visit(page: Path, scratch: Path, *widths: int, dark: bool = False) -> Visit:
    """Open a page in frames of some widths (CSS pixels)."""
    assert CHROMIUM is not None
    scratch.mkdir(parents=True)
    frames = "".join(
        f'<iframe src="{page.as_uri()}" style="width:{w}px;height:900px;border:0"></iframe>'
        for w in widths
    )
    harness, log = scratch / "harness.html", scratch / "net.json"
    harness.write_text(_HARNESS.format(frames=frames))
    command = [CHROMIUM, *_FLAGS, _NO_NETWORK, f"--user-data-dir={scratch / 'profile'}"]
    if dark:
        command.append("--blink-settings=preferredColorScheme=0")
    command += [f"--log-net-log={log}", "--dump-dom", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(json.loads(unescape(found[1])), console, _requests(log))


def _requests(log: Path) -> list[str]:
    """Return what a page asked for; requests without an origin are the browser's own."""
    events = json.loads(log.read_text())["events"]
    started = (event.get("params", {}) for event in events)
    return [
        params["url"]
        for params in started
        if params.get("initiator", "not an origin") != "not an origin"
    ]
