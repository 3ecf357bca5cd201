"""What happens in the demo: every scene is a small program as an application would contain it.

Scenes run one after the other, so that their numbers are the same in every run; within a scene many calls are in
flight at once. They note what the application saw, which is then compared with the provider server and the database.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tallystick.aio import AsyncTallystick
from tallystick.demo.customers import ADA, BEN, GUEST, LIGHTHOUSE, OLDMILL, RIVERBANK
from tallystick.errors import LimitExceeded, TallystickError
from tallystick.events import (
    CreditsExpired,
    CreditsLow,
    Event,
    LimitApproaching,
    LimitReached,
    OverageCharged,
    ProviderCallFailed,
)
from tallystick.providers.usage import ProviderUsage

if TYPE_CHECKING:
    from tallystick.app import Tallystick
    from tallystick.demo.clients import Body, Clients
    from tallystick.demo.provider_server import ProviderServer
    from tallystick.limits.decision import LimitCheck

__all__ = [
    "PAGE_TOKENS",
    "SLOW_SECONDS",
    "SUMMARY_TOKENS",
    "Failure",
    "Limited",
    "Observations",
    "Retry",
    "Scenes",
    "summary",
]

THREADS = 40
TASKS = 60
DOCUMENTS = 8

PAGE_TOKENS = 640
SUMMARY_TOKENS = 160
CALL_TOKENS = PAGE_TOKENS + SUMMARY_TOKENS
"""What a summary uses, always: the page is so long that its summary reaches the maximum."""

# With the envelope of a chat message, 2,555 characters make exactly 640 tokens at the demo's provider.
PAGE = ("The mill keeps a book of every sack that comes in and every sack that goes out, and who carried it. " * 26)[
    :2555
]
# Long enough for a provider to cache it.
HANDBOOK = (
    "Answer from the handbook of the riverbank library: opening hours, lending, fines and the reading room. " * 62
)

SLOW_SECONDS = 0.4
QUICK_SECONDS = 0.05

HEARD = (LimitApproaching, LimitReached, OverageCharged, ProviderCallFailed, CreditsLow, CreditsExpired)


@dataclass(frozen=True, slots=True)
class Limited:
    """Calls against a hard limit: how many were made, how many had room, how many the provider received."""

    billable: str
    what: str
    attempted: int
    room: int
    received: int
    refusals: tuple[TallystickError, ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """One request that was sent twice with the same idempotency key."""

    billable: str
    key: str
    usage_event_ids: tuple[str, str]
    replayed: bool
    received: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that the provider refused: what the application caught, and whether anything of it stayed behind."""

    billable: str
    error: str
    status: int | None
    is_the_providers_own: bool
    tokens_left: int


@dataclass(slots=True)
class Observations:
    """What the application saw while the scenes were played."""

    attempted: int = 0
    limited: list[Limited] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    heard: list[Event] = field(default_factory=list)

    @property
    def refused(self) -> int:
        return sum(len(limited.refusals) for limited in self.limited)

    def heard_by_name(self) -> Counter[str]:
        return Counter(type(event).__name__ for event in self.heard)

    def listen_to(self, ts: Tallystick | AsyncTallystick) -> None:
        """Note what an engine tells its listeners, in whichever thread it does."""
        for event_class in HEARD:
            ts.on(event_class)(self.heard.append)


class Scenes:
    """The scenes, over one engine. `open_async` opens a second one on the same database."""

    def __init__(
        self, ts: Tallystick, server: ProviderServer, clients: Clients, open_async: Callable[[], AsyncTallystick]
    ) -> None:
        self._ts = ts
        self._server = server
        self._clients = clients
        self._open_async = open_async
        self.seen = Observations()
        self.seen.listen_to(ts)

    def program(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Return the scenes in their order, each with what it is about."""
        return (
            (f"{THREADS} threads call at once, and there is room for few of them", self.a_crowd_at_a_hard_limit),
            ("A limit that was raised for a week, through ts.wrap", self.a_raised_limit),
            ("A stream, and its tokens when it ends", self.a_stream),
            ("The same request twice", self.a_retry),
            ("A provider that answers 429", self.a_failure),
            ("Streams against a limit in money", self.a_cost_limit),
            (f"{TASKS} asyncio tasks at once", self.a_crowd_of_tasks),
            ("A call that straddles a limit beyond which use is charged", self.an_overage),
            ("Two more providers, and a limit that lets pass", self.a_partner),
            ("A customer without a plan, and a provider of one's own", self.a_guest),
        )

    # -- hard limits --------------------------------------------------------------------------------------------------

    def a_crowd_at_a_hard_limit(self) -> None:
        ts, room = self._ts, _left(self._ts, ADA) // CALL_TOKENS
        body = summary("gpt-4o-mini")
        everybody = threading.Barrier(THREADS)

        def summarise(_: int) -> LimitExceeded | None:
            meter = ts.meter.billable(ADA).using_provider("openai", "gpt-4o-mini").feature("summary")
            everybody.wait()
            try:
                meter.estimate(tokens=CALL_TOKENS).call(lambda: self._clients.openai.ask(body))
            except LimitExceeded as refusal:
                return refusal
            return None

        with self.calls(THREADS, seconds=SLOW_SECONDS) as received, ThreadPoolExecutor(THREADS) as threads:
            refusals = tuple(filter(None, threads.map(summarise, range(THREADS))))
        self.seen.limited.append(Limited(ADA, f"{THREADS} threads at once", THREADS, room, received(), refusals))

    def a_cost_limit(self) -> None:
        ts, model = self._ts, "claude-sonnet-5"
        # The page is a token shorter where the envelope of a chat is not counted.
        page = ProviderUsage(PAGE_TOKENS - 1, SUMMARY_TOKENS)
        cost = ts.pricing.cost(page, provider="anthropic", model=model).total_cost
        left = ts.limits.check(OLDMILL).remaining_cost
        room = left.nanos // cost.nanos if left is not None else DOCUMENTS
        refusals: list[LimitExceeded] = []
        meter = ts.meter.billable(OLDMILL).using_provider("anthropic", model).feature("night-job")
        with self.calls(DOCUMENTS) as received:
            for number in range(DOCUMENTS):
                call = meter.with_meta(document=number).estimate(cost=cost)
                try:
                    for _ in call.call(lambda: self._clients.anthropic.stream(summary(model))).response:
                        pass
                except LimitExceeded as refusal:
                    refusals.append(refusal)
        what = f"{DOCUMENTS} documents in turn"
        self.seen.limited.append(Limited(OLDMILL, what, DOCUMENTS, room, received(), tuple(refusals)))

    # -- one customer's day -------------------------------------------------------------------------------------------

    def a_raised_limit(self) -> None:
        client = self._clients.openai.metered(self._ts, billable=BEN, feature="summary")
        calls = 14
        with self.calls(calls), ThreadPoolExecutor(calls) as threads:
            list(threads.map(client.ask, [summary("gpt-4o")] * calls))

    def a_stream(self) -> None:
        client = self._clients.openai.metered(self._ts, billable=BEN, feature="chat")
        with self.calls(1):
            for _ in client.stream(_question("gpt-5-mini", "Who may carry a sack?", max_completion_tokens=900)):
                pass

    def a_retry(self) -> None:
        body = _question("gpt-4o", "Write to the miller that his sacks have arrived.", max_tokens=200)
        meter = self._ts.meter.billable(BEN).using_provider("openai", "gpt-4o").feature("letter")
        keyed = meter.with_idempotency_key("letter-77")
        with self.calls(2) as received:
            first, second = (keyed.call(lambda: self._clients.openai.ask(body)) for _ in range(2))
        events = (first.usage_event_id, second.usage_event_id)
        self.seen.retries.append(Retry(BEN, "letter-77", events, second.replayed, received()))

    def a_failure(self) -> None:
        body = _question("gpt-4o", "Is the mill open on Friday?", max_tokens=200)
        meter = self._ts.meter.billable(BEN).using_provider("openai", "gpt-4o").feature("chat")
        before = self._ts.limits.check(BEN)
        self._server.fail_next(429)
        with self.calls(1):
            try:
                meter.call(lambda: self._clients.openai.ask(body))
            except Exception as caught:  # noqa: BLE001  # an SDK's own, whichever it is: that is what is shown
                after = self._ts.limits.check(BEN)
                self.seen.failures.append(
                    Failure(
                        BEN,
                        error=f"{type(caught).__module__.partition('.')[0]}.{type(caught).__name__}",
                        status=getattr(caught, "status_code", None),
                        is_the_providers_own=not isinstance(caught, TallystickError),
                        tokens_left=_taken(after) - _taken(before),
                    )
                )

    # -- limits that do not stop --------------------------------------------------------------------------------------

    def a_crowd_of_tasks(self) -> None:
        with self.calls(TASKS, seconds=SLOW_SECONDS):
            asyncio.run(self._summarise_in_tasks())

    async def _summarise_in_tasks(self) -> None:
        async with self._open_async() as ts, self._clients.openai_async(calls_at_once=TASKS) as client:
            self.seen.listen_to(ts)
            meter = ts.meter.billable(RIVERBANK).using_provider("openai", "gpt-4o-mini").feature("summary")
            body = summary("gpt-4o-mini")
            await asyncio.gather(*(meter.call(lambda: client.ask(body)) for _ in range(TASKS)))

    def an_overage(self) -> None:
        client = self._clients.anthropic.metered(self._ts, billable=RIVERBANK, feature="helpdesk")
        questions = ("When does the reading room open?", "May I lend a map?", "What is the fine for a day?")
        with self.calls(len(questions)):
            for question in questions:
                client.ask({**_question("claude-sonnet-5", question, max_tokens=300), "system": _cached(HANDBOOK)})

    def a_partner(self) -> None:
        gemini = self._ts.meter.billable(LIGHTHOUSE).using_provider("google", "gemini-2.5-flash").feature("translate")
        mistral = self._ts.meter.billable(LIGHTHOUSE).using_provider("mistral", "mistral-small-latest").feature("chat")
        with self.calls(4):
            for _ in range(2):
                gemini.call(lambda: self._clients.gemini(model="gemini-2.5-flash", text=PAGE, tokens_max=600))
                mistral.call(lambda: self._clients.mistral(summary("mistral-small-latest")))

    def a_guest(self) -> None:
        meter = self._ts.meter.billable(GUEST)
        search = meter.using_provider("openai", "text-embedding-3-small").resource_type("embedding").feature("search")
        rewrite = meter.using_provider("acme", "acme-rewrite-1").feature("rewrite")
        texts = ("Sacks came. Miller glad.", "Who carried it is written in the book.")
        with self.calls(3):
            search.call(
                lambda: self._clients.openai.embed({"model": "text-embedding-3-small", "input": [PAGE, "mill"]})
            )
            for body in ({"model": "acme-rewrite-1", "text": text} for text in texts):
                rewrite.call(partial(self._clients.acme, body))

    # -- counting -----------------------------------------------------------------------------------------------------

    @contextmanager
    def calls(self, attempted: int, *, seconds: float = QUICK_SECONDS) -> Iterator[Callable[[], int]]:
        """Note that so many calls are attempted, and count how many of them the provider receives."""
        before = self._server.calls
        self._server.latency_seconds = seconds
        self.seen.attempted += attempted
        yield lambda: self._server.calls - before


def summary(model: str) -> Body:
    return _question(model, PAGE, max_tokens=SUMMARY_TOKENS)


def _question(model: str, text: str, **maximum: int) -> Body:
    return {"model": model, "messages": [{"role": "user", "content": text}], **maximum}


def _cached(text: str) -> list[Body]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]


def _left(ts: Tallystick, billable: str) -> int:
    return ts.limits.check(billable).remaining_tokens or 0


def _taken(check: LimitCheck) -> int:
    return check.tokens_used + check.tokens_held
