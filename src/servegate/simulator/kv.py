"""The memory of attention: a fixed number of blocks, shared between requests that start alike.

Free blocks keep their content until somebody needs the space (least recently used first), which is what makes a prefix
cache out of a pool. At any moment: free + in use + leaked = total.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


class BlockPool:
    """`total` blocks with reference counts and an index of block contents by hash."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a pool needs at least one block, not {total}")
        self.total = total
        self.leaked = 0
        self._leak_debt = 0
        self._references = [0] * total
        self._hash: list[Hashable | None] = [None] * total
        self._by_hash: dict[Hashable, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(total))

    @property
    def free(self) -> int:
        """Blocks nobody holds, including those whose content is still remembered."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks held by at least one request."""
        return self.total - self.leaked - len(self._free)

    @property
    def usage(self) -> float:
        """Fraction of all blocks that are not free; what leaked counts as in use."""
        return 1.0 - len(self._free) / self.total

    def find(self, content: Hashable) -> int | None:
        """The block that holds this content, if it is remembered."""
        return self._by_hash.get(content)

    def held(self, block: int) -> bool:
        """Whether a request holds the block now."""
        return self._references[block] > 0

    def hold(self, block: int) -> None:
        """One more request uses the block."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def take(self, count: int) -> list[int] | None:
        """`count` blocks to write to, or None if there are not so many; never some of them."""
        if count > len(self._free):
            return None
        taken = []
        for _ in range(count):
            block, _unused = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def remember(self, block: int, content: Hashable) -> None:
        """The block is full and will not change: requests that start alike may share it."""
        if self._hash[block] is None and content not in self._by_hash:
            self._hash[block] = content
            self._by_hash[content] = block

    def release(self, blocks: Iterable[int]) -> None:
        """A request no longer uses these; give the last of a prompt first, it is forgotten first."""
        for block in blocks:
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
        self._pay_debt()

    def leak(self, count: int) -> None:
        """Lose blocks for good: free ones now, the rest as they become free."""
        self._leak_debt = min(self._leak_debt + count, self.total - self.leaked)
        self._pay_debt()

    def _pay_debt(self) -> None:
        while self._leak_debt and self._free:
            block, _unused = self._free.popitem(last=False)
            self._forget(block)
            self._leak_debt -= 1
            self.leaked += 1

    def _forget(self, block: int) -> None:
        content = self._hash[block]
        if content is not None:
            self._hash[block] = None
            del self._by_hash[content]
