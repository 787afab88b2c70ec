"""Answers of two slots to the same prompts, laid side by side."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from servegate.endpoint import request
from servegate.errors import InfrastructureError
from servegate.loadtest.prompts import Prompt, load_prompts
from servegate.release import Release
from servegate.rollout.plan_experiment import Outputs
from servegate.rollout.prepare import Compare
from servegate.rollout.seen import OutputsSeen

TIMEOUT = 120.0
EXAMPLES = 3


def comparing(rules: Outputs) -> Compare:
    """Asks one prompt after the other, the same of both, at temperature 0: little load, and only the release differs.

    Raises:
        ConfigError: the prompts cannot be read.
    """
    prompts = load_prompts(Path(rules.prompts))[: rules.count]

    def compare(stable_url: str, candidate_url: str, stable: Release, candidate: Release) -> OutputsSeen:
        same = failed = 0
        likeness: list[tuple[float, str]] = []
        for prompt in prompts:
            try:
                one = ask(stable_url, stable.model.served_name, prompt, rules.max_tokens)
                other = ask(candidate_url, candidate.model.served_name, prompt, rules.max_tokens)
            except InfrastructureError:
                failed += 1
                continue
            same += plain(one) == plain(other)
            likeness.append((difflib.SequenceMatcher(None, plain(one), plain(other)).ratio(), prompt.id))
        asked = len(likeness)
        worst = [name for ratio, name in sorted(likeness)[:EXAMPLES] if ratio < 1]
        mean = sum(ratio for ratio, _ in likeness) / asked if asked else 0.0
        return OutputsSeen(asked=asked, same=same, similarity=mean, failed=failed, examples=tuple(worst))

    return compare


def ask(url: str, model: str, prompt: Prompt, max_tokens: int) -> str:
    """One answer. Raises InfrastructureError when there is none."""
    body = {
        "model": model,
        "messages": prompt.as_messages(),
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 0,
    }
    status, answer = request(
        "POST",
        f"{url}/v1/chat/completions",
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        timeout=TIMEOUT,
    )
    if status != 200:
        raise InfrastructureError(f"{url} answered HTTP {status}")
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InfrastructureError(f"{url} answered something that is no chat completion") from error
    return str(content or "")


def plain(text: str) -> str:
    """Without what does not matter: blanks and case."""
    return " ".join(text.split()).casefold()
