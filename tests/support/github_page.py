"""Markdown as GitHub shows it: rendered by GitHub's own cmark-gfm, its alerts, and a style with its measures."""

from __future__ import annotations

import re

import cmarkgfm
from cmarkgfm.cmark import Options

STYLE = """
body{margin:0;background:#fff;color:#1f2328;font:16px/1.5 -apple-system,"Segoe UI"
,"Noto Sans",Helvetica,Arial,sans-serif}
.markdown-body{box-sizing:border-box;width:1012px;padding:16px 24px;word-wrap:break-word}
h4{font-size:16px;margin:24px 0 16px;font-weight:600} p,ul,table,details,blockquote,.alert{margin:0 0 16px}
ul{padding-left:2em} table{display:block;width:max-content;max-width:100%;overflow:auto;border-collapse:collapse}
th,td{padding:6px 13px;border:1px solid #d1d9e0} th{font-weight:600} tr:nth-child(2n){background:#f6f8fa}
code{background:#818b981f;padding:.2em .4em;border-radius:6px;font:85% ui-monospace,monospace} sub{font-size:75%}
.alert{padding:8px 16px;border-left:.25em solid} .alert>p:first-child{font-weight:500} a{color:#0969da}
.CAUTION{border-color:#cf222e} .CAUTION>p:first-child{color:#d1242f} .TIP{border-color:#1a7f37}
.TIP>p:first-child{color:#1a7f37} .WARNING{border-color:#9a6700} .WARNING>p:first-child{color:#9a6700}
"""

_ALERT = re.compile(r"<blockquote>\s*<p>\[!(TIP|CAUTION|WARNING)\]\n(.*?)</blockquote>", re.DOTALL)


def render(text: str) -> str:
    """The HTML of a Markdown text, raw HTML included: what it lets through is for the caller to look at."""
    return str(cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE))


def page(text: str, *, unfold: bool = False) -> str:
    """A whole page with the text as a job summary."""
    body = _ALERT.sub(r'<div class="alert \1"><p>\1</p><p>\2</div>', render(text))
    if unfold:
        body = body.replace("<details>", "<details open>")
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><main class="markdown-body">{body}</main>'
