"""States of four sizes, made from a seed, the same for every subject."""

from __future__ import annotations

import functools
import itertools
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from redis_state import AgentState, Message

ROLES = ("user", "assistant", "tool", "assistant")
VOCABULARY = (
    "the a to of and in is for on that with your we it can order refund customer shipment invoice address delay "
    "agent please check status number today tomorrow café naïve résumé Zürich update retry policy limit account "
    'payment failed accepted search result found nothing "quoted" path\\to line\nbreak sum average 42 3.14 2025-01-31'
)
WORDS = VOCABULARY.split(" ")
VARIANTS = 4
START = datetime(2025, 1, 31, 9, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Payload:
    """A size of state.

    Attributes:
        name: The size as tables name it.
        size: Encoded JSON to aim at, in bytes.
        messages: How many messages a state has.
        sessions: How many sessions a subject works on.
        seed: What the texts are made from.
    """

    name: str
    size: int
    messages: int
    sessions: int
    seed: int

    def states(self, count: int | None = None, *, agents: int = 1) -> list[AgentState]:
        """The states of `count` sessions, spread over `agents`: new objects, the same content at every call."""
        conversations = [conversation(self, variant) for variant in range(VARIANTS)]
        return [
            AgentState(
                agent_id=f"agent-{i % agents}",
                session_id=f"session-{i:06}",
                messages=list(conversations[i % VARIANTS]),
                context={"user_id": f"user-{i % 97:03}"} if self.messages > 1 else {},
                created_at=START,
                updated_at=START,
            )
            for i in range(count or self.sessions)
        ]

    def encoded_size(self) -> int:
        """The mean bytes of a state as JSON."""
        return sum(len(msgspec.json.encode(state)) for state in self.states(VARIANTS)) // VARIANTS


@functools.cache
def conversation(payload: Payload, variant: int) -> tuple[Message, ...]:
    """Messages of uneven length whose state encodes to about the payload's size."""
    rng = random.Random(f"{payload.seed}/{payload.name}/{variant}")
    weights = [rng.uniform(0.5, 1.5) for _ in range(payload.messages)]
    prose = " ".join(rng.choices(WORDS, k=payload.size // 4))

    def messages(mean: float) -> list[Message]:
        cuts = itertools.accumulate((round(mean * weight) for weight in weights), initial=0)
        return [message(i, prose[start:end]) for i, (start, end) in enumerate(itertools.pairwise(cuts))]

    mean = 8.0
    for _ in range(3):  # each try corrects the mean length by what the last one was short of
        state = AgentState(agent_id="agent-0", session_id="session-000000", messages=messages(mean))
        mean = max(8.0, mean + (payload.size - len(msgspec.json.encode(state))) / payload.messages)
    return tuple(messages(mean))


def message(position: int, content: str) -> Message:
    """A turn: the roles take turns, and an assistant's message has metadata."""
    role = ROLES[position % len(ROLES)]
    metadata = {"model": "large-2", "tokens": len(content) // 4} if role == "assistant" else None
    return Message(role=role, content=content, timestamp=START + timedelta(seconds=7 * position), metadata=metadata)


def sizes(seed: int, *, quick: bool = False) -> dict[str, Payload]:
    """The four sizes by name; quick runs work on fewer sessions."""
    sessions = 128 if quick else 512
    return {
        payload.name: payload
        for payload in (
            Payload("0.2 KB", 200, messages=1, sessions=sessions, seed=seed),
            Payload("1.4 KB", 1400, messages=8, sessions=sessions, seed=seed),
            Payload("20 KB", 20_000, messages=60, sessions=sessions, seed=seed),
            Payload("1 MB", 1_000_000, messages=800, sessions=16, seed=seed),
        )
    }


def contents(messages: list[Any]) -> list[str]:
    """What is said, of messages in a subject's own form."""
    return [message["content"] if isinstance(message, dict) else message.content for message in messages]
