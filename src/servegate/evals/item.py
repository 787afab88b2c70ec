"""One question of a dataset, as it stands in the file.

The fields are those other tools use too (id, input or messages, target, choices, tags, cluster), so that a dataset can
be taken from one to the other. A row's digest is its identity: two runs are paired only where it agrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from servegate.config import Config

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Id = Annotated[str, Field(pattern=r"^[^\s\[\]@]{1,200}$", description="unique within the dataset, without blanks")]
Tag = Annotated[str, Field(pattern=r"^[^\s\[\]@=,]{1,64}$", description="becomes a slice, such as tags=refund")]
Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Item(Config):
    """A question, and what a right answer is."""

    id: Id
    input: Text | None = Field(None, description="the question; or `messages`")
    messages: tuple[Message, ...] | None = Field(None, description="a conversation that ends with a user's turn")
    choices: Annotated[tuple[Text, ...], Field(min_length=2, max_length=len(LETTERS))] | None = Field(
        None, description="options in the order shown; they get the letters A, B, …"
    )
    target: str | tuple[str, ...] | dict[str, Any] | None = Field(
        None, description="what is right; its meaning is the scorer's"
    )
    scorer: dict[str, Any] | str | None = Field(None, description="kind, or kind and options; the suite's when absent")
    tags: tuple[Tag, ...] = Field((), description="parts of the data to report on their own")
    cluster: Id | None = Field(None, description="items that share a passage or a conversation share this")
    metadata: dict[str, Any] = Field(default_factory=dict, description="anything else; part of the identity")

    @model_validator(mode="after")
    def _askable(self) -> Item:
        if (self.input is None) == (self.messages is None):
            raise ValueError("needs `input` or `messages`, and not both")
        if self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            raise ValueError("`messages` must end with a turn of the user")
        if self.choices is not None and len(set(self.choices)) < len(self.choices):
            raise ValueError("`choices` has the same option twice")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """The target as a list of texts; empty when there is none or it is an object."""
        if isinstance(self.target, str):
            return (self.target,)
        return self.target if isinstance(self.target, tuple) else ()

    def conversation(self, system: str | None, prompt: str, show_choices: bool) -> list[Mapping[str, str]]:
        """The messages to send.

        Args:
            system: goes first unless the item brings its own.
            prompt: template of the last turn; `{input}` stands for the item's text. Plain replacement: nothing else
                in a question or a template has a meaning.
            show_choices: put the lettered options below the question.
        """
        turns = self.messages or (Message(role="user", content=self.input or ""),)
        last = prompt.replace("{input}", turns[-1].content)
        if show_choices and self.choices:
            options = (f"{letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
            last += "\n\n" + "\n".join(options)
        messages: list[Mapping[str, str]] = []
        if system is not None and turns[0].role != "system":
            messages.append({"role": "system", "content": system})
        messages += [{"role": turn.role, "content": turn.content} for turn in turns[:-1]]
        messages.append({"role": "user", "content": last})
        return messages
