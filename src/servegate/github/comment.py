"""One comment per gate and pull request: found again by a hidden marker, and updated.

Anybody can write the marker into a comment of their own; only comments of the account the token acts for are ours.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from servegate.errors import InfrastructureError
from servegate.github.api import Client, RefusedError, UnclearError
from servegate.github.run import Pull

_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Posted:
    """The comment that stands now."""

    url: str
    created: bool


class MovedError(InfrastructureError):
    """The pull request is not what the verdict is about any more."""


def marker(key: str) -> str:
    """The invisible first line of a gate's comment. A key that could end it is replaced by its digest."""
    safe = _KEY.fullmatch(key) and "--" not in key
    name = key if safe else f"sha256-{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:32]}"
    return f"<!-- servegate verdict {name} -->"


def find_pull(client: Client, repository: str, pull: Pull) -> int:
    """Number of the pull request, which must still be at the commit the verdict is about.

    The number of a fork's `workflow_run` is asked of GitHub, because nothing a fork wrote can be believed.

    Raises:
        MovedError: it has another head by now, or there is none.
    """
    if pull.number is not None:
        found = client.get(f"/repos/{repository}/pulls/{pull.number}")
        candidates = [found] if isinstance(found, dict) else []
    elif pull.head is not None:
        query = {"state": "open", "head": pull.head}
        candidates = list(client.pages(f"/repos/{repository}/pulls", query))
    else:
        candidates = []
    if not candidates:
        raise MovedError("there is no open pull request for this run")
    same = [item for item in candidates if pull.commit is None or _head(item) == pull.commit]
    if not same:
        raise MovedError("the pull request has newer commits than this verdict is about; its comment stays as it is")
    number = same[0].get("number")
    if not isinstance(number, int):
        raise InfrastructureError("GitHub does not say the pull request's number")
    return number


def upsert(client: Client, repository: str, number: int, key: str, text: str) -> Posted:
    """Update the comment with this key, or write it.

    Raises:
        RefusedError: the token may not write there.
        InfrastructureError: GitHub does not answer.
    """
    me = client.viewer()
    body = f"{marker(key)}\n{text}"
    try:
        return _upsert(client, repository, number, key, body, me)
    except UnclearError:
        # It may have been written all the same: looking again is what keeps it one comment.
        return _upsert(client, repository, number, key, body, me)


def _upsert(client: Client, repository: str, number: int, key: str, body: str, me: int) -> Posted:
    comments = f"/repos/{repository}/issues/{number}/comments"
    first = marker(key)
    for comment in client.pages(comments):
        if _author(comment) == me and str(comment.get("body") or "").partition("\n")[0].rstrip() == first:
            try:
                changed = client.send(
                    "PATCH", f"/repos/{repository}/issues/comments/{int(comment['id'])}", {"body": body}
                )
            except RefusedError as error:
                if error.status == 404:  # deleted since it was listed
                    break
                raise
            return Posted(_url(changed), created=False)
    return Posted(_url(client.send("POST", comments, {"body": body})), created=True)


def _author(comment: dict[str, object]) -> object:
    user = comment.get("user")
    return user.get("id") if isinstance(user, dict) else None


def _head(pull: dict[str, object]) -> object:
    head = pull.get("head")
    return head.get("sha") if isinstance(head, dict) else None


def _url(comment: dict[str, object]) -> str:
    url = comment.get("html_url")
    return url if isinstance(url, str) else ""
