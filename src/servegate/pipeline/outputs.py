"""Answers of two slots to the same prompts, laid side by side."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from servegate.endpoint import request
from servegate.errors import ConfigError, InfrastructureError
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
    prompts = read_prompts(Path(rules.prompts))[: rules.count]

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
            likeness.append((difflib.SequenceMatcher(None, plain(one), plain(other)).ratio(), prompt))
        asked = len(likeness)
        worst = [prompt[:200] for ratio, prompt in sorted(likeness)[:EXAMPLES] if ratio < 1]
        mean = sum(ratio for ratio, _ in likeness) / asked if asked else 0.0
        return OutputsSeen(asked=asked, same=same, similarity=mean, failed=failed, examples=tuple(worst))

    return compare


def read_prompts(path: Path) -> list[str]:
    """Prompts of a JSON Lines file with `prompt`.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    prompts = []
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.strip():
                prompt = json.loads(line).get("prompt")
                if not isinstance(prompt, str) or not prompt:
                    raise ConfigError(f"{path}:{number}: no `prompt`")
                prompts.append(prompt)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not JSON Lines with `prompt`: {error}") from error
    if not prompts:
        raise ConfigError(f"{path}: has no prompt")
    return prompts


def ask(url: str, model: str, prompt: str, max_tokens: int) -> str:
    """One answer. Raises InfrastructureError when there is none."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
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
