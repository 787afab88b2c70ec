"""Pages as a browser lays them out. Needs a `chromium` on the path.

The pages themselves run no script, so each is put into a frame of the wanted width, and the frame's owner measures.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

PROBE = """
<script>
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), inside = frame.contentDocument, found = [];
  const root = inside.documentElement;
  if (root.scrollWidth > frame.clientWidth) found.push("the page is " + root.scrollWidth + " wide");
  let texts = 0;
  for (const svg of inside.querySelectorAll(".plot svg")) {
    const box = svg.getBoundingClientRect();
    if (!box.width) continue;
    const rects = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts += rects.length;
    rects.forEach(([words, r], i) => {
      if (r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2 || r.bottom > box.bottom + 2)
        found.push("cut off: " + words);
      for (const [other, o] of rects.slice(i + 1))
        if (Math.min(r.right, o.right) - Math.max(r.left, o.left) > 2 &&
            Math.min(r.bottom, o.bottom) - Math.max(r.top, o.top) > 3)
          found.push(words + " lies over " + other);
    });
  }
  for (const cell of inside.querySelectorAll("td, th, dd, .badge"))
    if (cell.scrollWidth > cell.clientWidth + 2 && getComputedStyle(cell).display !== "inline")
      found.push("too wide: " + cell.textContent.trim().slice(0, 40));
  const sideways = [...inside.querySelectorAll("table")].filter(t => t.scrollWidth > t.clientWidth + 1)
    .map(t => t.textContent.trim().slice(0, 60));
  const headings = [...inside.querySelectorAll("h1, h2, h3, h4")].map(h => h.textContent);
  const style = getComputedStyle(inside.body);
  document.querySelector("#out").textContent = JSON.stringify({
    found, texts, sideways, headings, height: root.scrollHeight, ink: style.color, paper: style.backgroundColor,
    scripts: inside.scripts.length, loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
  });
});
</script>
"""


def measured(markup: str, width: int, folder: Path, *arguments: str) -> dict[str, Any]:
    """Lay the page out at `width` CSS pixels and say what is wrong."""
    browser = shutil.which("chromium")
    assert browser, "chromium is not installed"
    owner = folder / f"owner-{width}.html"
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escape(markup)}"></iframe>'
    owner.write_text(f'<!doctype html><meta charset="utf-8"><body>{frame}<pre id="out"></pre>{PROBE}</body>')
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={folder / f'profile-{width}'}", "--window-size=1400,1000", "--dump-dom",
               *arguments, owner.as_uri()]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = re.search(r'<pre id="out">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert found, ended.stderr[-2000:]
    result: dict[str, Any] = json.loads(unescape(found[1]))
    return result
