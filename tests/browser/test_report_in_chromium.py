"""The report page as a browser lays it out. Needs a `chromium` on the path; the other tests do not.

The page itself runs no script, so it is put into a frame of the wanted width, and the frame's owner measures.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from servegate.report.html import page

SAMPLES = Path(__file__).parent.parent / "unit" / "report" / "conftest.py"
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
  const style = getComputedStyle(inside.body);
  document.querySelector("#out").textContent = JSON.stringify({
    found, texts, height: root.scrollHeight, ink: style.color, paper: style.backgroundColor,
    scripts: inside.scripts.length, loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def markup() -> str:
    spec = importlib.util.spec_from_file_location("report_samples", SAMPLES)
    assert spec is not None
    assert spec.loader is not None
    samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)
    return page("Demo", samples.make_stories(), intro="Two releases.", machine={"CPU": "2 cores"})


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


@pytest.mark.parametrize("width", [400, 640, 800, 1280])
def test_nothing_overflows_is_cut_off_or_covers_something(width: int, markup: str, tmp_path: Path) -> None:
    result = measured(markup, width, tmp_path)
    assert result["found"] == []
    assert result["texts"] > 80
    assert result["scripts"] == 0
    assert result["loaded"] == 0


def test_dark_and_light_differ(markup: str, tmp_path: Path) -> None:
    light = measured(markup, 800, tmp_path)
    dark = measured(markup, 801, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert dark["paper"] == "rgb(20, 23, 26)"
