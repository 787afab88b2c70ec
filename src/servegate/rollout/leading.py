"""Being in charge: the lease of one controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from servegate.errors import InfrastructureError
from servegate.rollout.ports import Lease, LeaseLostError, Store


class Leadership:
    """The lease of `holder` on a store.

    Args:
        holder: who we are; unique for every process.
        ttl: seconds after which another controller may take over.
        poll: seconds between two tries to get it.
        say: (level, message) for people.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        *,
        ttl: float,
        poll: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str, str], None],
    ) -> None:
        self.store, self.holder, self.ttl, self.poll = store, holder, ttl, poll
        self.clock, self.sleep, self.say = clock, sleep, say
        self._lease: Lease | None = None

    @property
    def held(self) -> bool:
        """We have taken it and not given it back."""
        return self._lease is not None

    def lease(self) -> Lease:
        """The lease, taken now when we do not have it. Raises LeaseLostError while somebody else is alive."""
        if self._lease is None:
            self.take()
        assert self._lease is not None
        return self._lease

    def renew(self, now: float) -> None:
        """Extend it when half of it is over. Raises LeaseLostError when it is no longer ours.

        In between nothing is asked: who has taken over is met by the save of the state, which carries the epoch.
        """
        lease = self.lease()
        if not lease.expires - self.ttl <= now < lease.expires - self.ttl / 2:  # also when a clock was set back
            self._lease = self.store.renew(lease, now, self.ttl)

    def take(self) -> None:
        """Acquire the lease; a predecessor that was killed has it until it expires, so wait for that."""
        deadline = self.clock() + self.ttl + 1.0
        told = False
        while True:
            try:
                self._lease = self.store.acquire(self.holder, self.clock(), self.ttl)
                return
            except LeaseLostError as error:
                if self.clock() >= deadline:
                    raise
                if not told:
                    self.say("info", f"waiting for the lease: {error}")
                    told = True
                self.sleep(self.poll)

    def give_back(self) -> None:
        """Let the next one have it at once."""
        if self._lease is not None:
            try:
                self.store.release(self._lease)
            except InfrastructureError as error:
                self.say("warning", f"the lease was not given back and will expire: {error}")
            self._lease = None

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Take the lease, and keep it only when nothing goes wrong."""
        self.take()
        try:
            yield
        except BaseException:
            self.give_back()
            raise
