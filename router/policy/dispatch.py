"""The proxy loop without I/O: what to do next for one exchange, told what has happened.

    next(now)    -> an Attempt to send | Park | Sleep | Answer | None: go on waiting for what is under way
    head(...)    -> Relay | RETRY      the response's head is here
    failed(...)                        an attempt ended before its head was passed on; ask `next`
    ended(...)                         the only place where a lease closes
    close(now)                         the exchange is over, whatever was under way

The driver (net/forward.py, or a simulator) does what is returned and calls again. After `ended` and `close` it wakes
the tickets that `pool.grant()` yields. Methods may be called in any order that I/O can produce.
"""

from __future__ import annotations

from router.errors import ClientGone, NothingReady, Overloaded, RouterError, UpstreamError, UpstreamTimeout
from router.model import Attempt, Candidates, Endpoint, Outcome
from router.policy.actions import RELAY, RETRY, Action, Answer, Relay, Retry, Sleep
from router.policy.admission import Admission
from router.policy.outcomes import StatusError, answer, outcome_of
from router.policy.retry import SAFE, backoff, may_retry

__all__ = ["Dispatch"]

_NEVER = float("inf")
#: Statuses that say that the endpoint, not the request, is at fault.
_FAILING = frozenset({500, 502, 503, 504})


class Dispatch(Admission, eq=False):
    """One exchange's way through its pool."""

    #: Attempts whose lease is open.
    live: list[Attempt] = []
    _begun: bool = False
    _passed_on: bool = False
    _replayable: bool = True
    _tries: int = 0
    _sleeps: int = 0
    _slept: int = 0
    _error: RouterError | None = None

    # What to do next

    def next(self, now: float) -> Action:
        pool = self.pool
        if not self._begun:
            self._begun = True
            pool.budget.deposit(now)
            if self.exchange.deadline > now and pool.in_flight < pool.limits.in_flight and not pool.queue.tickets:
                self.admitted = True
                pool.in_flight += 1
                return self._choose(now)
        if self.live:
            return self._hedge(now)
        if self._error is not None and not self._may_go_on(self._error, now):
            return Answer(self._error.status, self._error)
        if self.exchange.deadline <= now:
            return answer(UpstreamTimeout("the route's timeout is over"))
        if not self.admitted or self._ticket is not None:
            waiting = self._admit(now)
            if waiting is not None:
                return waiting
        return self._choose(now)

    def _may_go_on(self, error: RouterError, now: float) -> bool:
        """Whether one more try is allowed after this failure."""
        why = self._objection(error, now)
        if why:
            self.note(now, "no retry", why)
        return not why

    def _objection(self, error: RouterError, now: float) -> str:
        """What stands against one more try; "" if nothing does."""
        pool = self.pool
        if not isinstance(error, UpstreamError):
            return error.title
        if self._tries > pool.retry.attempts:
            return "no attempts left"
        # What was never sent did nothing: it goes on to another endpoint whatever the reason.
        if error.sent and error.reason not in pool.retry.reasons and error.reason != "status":
            return "not in retry.on"
        return may_retry(
            head_passed=self._passed_on,
            replayable=self._replayable,
            sent=error.sent,
            method=self.exchange.method,
            budget=pool.budget,
            now=now,
            deadline=self.exchange.deadline,
        )

    def _choose(self, now: float) -> Action:
        pool, exchange = self.pool, self.exchange
        if pool.find is not None:
            pinned = self._pinned(now)
            if pinned is not None:
                return pinned
        candidates = pool.candidates(exchange, now)
        if candidates is None:
            return answer(self._error or NothingReady(pool.count_ready()))
        if exchange.tried and candidates:
            rest = candidates.without(exchange.tried)
            if rest:
                candidates = rest
            elif self._slept != self._tries:
                self._slept = self._tries
                self._sleeps += 1
                return Sleep(now + backoff(self._sleeps - 1, pool.rng))
        if not candidates:
            return self._park(now)
        return self._open(self._selected(candidates), now)

    def _selected(self, candidates: Candidates) -> Endpoint:
        pool = self.pool
        if pool.has_key:
            pool.key_of(self.exchange)
        try:
            endpoint = pool.selector.choose(candidates, self.exchange)
            if endpoint.home is candidates or endpoint in candidates:
                return endpoint
            raise LookupError(f"chose {endpoint!r}, which is not a candidate")
        except Exception as error:
            pool.muted(pool.selector, error)
            return candidates[int(pool.rng.random() * len(candidates))]

    def _pinned(self, now: float) -> Action:
        """What affinity's word comes to; None where it has none, or none that holds."""
        pool, exchange = self.pool, self.exchange
        if now >= pool.due:
            pool.tick(now)
        if not self._tries:
            try:
                found = pool.find(pool.members, exchange)
                if found is None:
                    return None
                if not isinstance(found, Endpoint):
                    raise TypeError(f"find returned {type(found).__name__}, not an Endpoint or None")
                exchange.pinned = found
                if found.home is pool.usual:
                    return self._open(found, now)
            except Exception as error:
                pool.muted(pool.affinity, error)
        endpoint = exchange.pinned
        if endpoint is None or endpoint in exchange.tried:
            return None
        if pool.is_usable(endpoint, now):
            if endpoint.load < endpoint.limit:
                return self._open(endpoint, now)
            if not self._unpinned and pool.queue.waiting < pool.limits.queue:
                return self._park(now, endpoint)
            return self._break_pin(endpoint, Overloaded("the session's server is full"), now)
        out = "ejected" if endpoint.health.ejection.lasts(now) else "not ready"
        return self._break_pin(endpoint, NothingReady(f"the session's server is {out}"), now)

    def _break_pin(self, endpoint: Endpoint, why: RouterError, now: float) -> Action:
        """The session cannot stay where it is: None where another endpoint is to be chosen."""
        if self.pool.on_unready == "refuse":
            return answer(why)
        if not any(note.name == "pin broken" for note in self.exchange.notes):
            self.note(now, "pin broken", why.detail, endpoint)
        return None

    def _open(self, endpoint: Endpoint, now: float) -> Attempt:
        pool, exchange = self.pool, self.exchange
        if self.tell and endpoint.home is None and not pool.is_usable(endpoint, now):
            self.note(now, "panic", "health is ignored", endpoint)
        pool.acquire(endpoint, now)
        timeout = pool.attempt_timeout
        if exchange.deadline != _NEVER:
            timeout = min(timeout, exchange.deadline - now)
        attempt = Attempt(endpoint, self._tries, now, timeout)
        if pool.hedge_after is not None and exchange.method in SAFE and self._tries < pool.retry.attempts:
            attempt.hedge_after = pool.hedge_after
        if self._tries:
            pool.retries += 1
            if not self.live:
                self._note_retry(endpoint, now)
        if self.tell:
            exchange.attempts = (*exchange.attempts, attempt) if self._tries else (attempt,)
        self._tries += 1
        exchange.tried = (*exchange.tried, endpoint) if exchange.tried else (endpoint,)
        self.live.append(attempt)
        return attempt

    def _note_retry(self, endpoint: Endpoint, now: float) -> None:
        error, pinned = self._error, self.exchange.pinned
        if error is not None:
            self.note(now, "retry", error.detail, endpoint)
            if pinned is not None and endpoint is not pinned is self.exchange.tried[-1]:
                self.note(now, "pin broken", "the session's server has failed", pinned)
            if error.sent:
                self.pool.budget.withdraw(now)

    def _hedge(self, now: float) -> Action:
        """A second attempt beside a slow one: safe methods only, out of the same budget, never at the same endpoint."""
        pool, exchange = self.pool, self.exchange
        slow = self.live[-1]
        if self._passed_on or slow.hedge_after is None or now < slow.started + slow.hedge_after:
            return None
        if self._tries > pool.retry.attempts or not self._replayable or exchange.deadline <= now:
            return None
        candidates = pool.candidates(exchange, now)
        rest = candidates.without(exchange.tried) if candidates else None
        if not rest or not pool.budget.withdraw(now):
            return None
        attempt = self._open(self._selected(rest), now)
        attempt.hedge = True
        self.note(now, "hedge", f"no head within {slow.hedge_after:g} s", attempt.endpoint)
        return attempt

    # What has happened

    def head(self, attempt: Attempt, status: int, now: float) -> Relay | Retry:
        """The head of a final response has arrived whole and valid."""
        attempt.status = status
        attempt.head_at = now
        if status >= 500 and self._judge_status(attempt, status, now):
            return RETRY
        self._passed_on = attempt.passed_on = True
        if status == 101:
            attempt.final = Outcome("success", elapsed=now - attempt.sent_at, status=status)
        self.exchange.status = status
        if len(self.live) == 1:
            return RELAY
        return Relay(tuple(other for other in self.live if other is not attempt))

    def _judge_status(self, attempt: Attempt, status: int, now: float) -> bool:
        """Decides the outcome of a failing status; True if the exchange is tried again elsewhere instead."""
        retried = status in self.pool.retry.statuses
        if retried or status in _FAILING:
            attempt.final = Outcome("failure", phase="head", status=status, elapsed=now - attempt.sent_at)
        if not retried:
            return False
        error = StatusError(f"status {status}", sent=True)
        candidates = self.pool.candidates(self.exchange, now)
        others = candidates is not None and any(e not in self.exchange.tried for e in candidates)
        if not others:
            self.note(now, "no retry", "nobody else is ready")
        if not others or not self._may_go_on(error, now):
            return False
        self._error = error
        return True

    def failed(self, attempt: Attempt, error: RouterError, sent: bool, now: float) -> None:
        """The attempt ended before its head was passed on. `sent`: whether any byte had been written."""
        error.sent = sent
        before = self._error
        # What the client is told: the gravest. All refused is 503, anything else was an answer that failed.
        if before is None or not isinstance(error, UpstreamError) or error.phase != "connect":
            self._error = error
        elif before.sent:
            before.sent = sent
        self.ended(attempt, error, now)

    def body_taken(self, replayable: bool) -> None:
        """Body bytes were passed to an endpoint; `replayable` while the buffer still holds all of them."""
        self._replayable = replayable

    def ended(self, attempt: Attempt, error: RouterError | None, now: float) -> None:
        """Closes the attempt's lease and tells its outcome. A second call does nothing."""
        if not attempt.open:
            return
        attempt.open = False
        attempt.ended_at = now
        if error is not None and attempt._final is None:
            attempt._final = outcome_of(attempt, error, now)
        self.live.remove(attempt)
        pool = self.pool
        pool.release(attempt.endpoint, now)
        if (pool.listens or attempt.endpoint.limit == 1) and (outcome := attempt.final) is not None:
            pool.told(attempt.endpoint, outcome, now)

    def close(self, now: float) -> None:
        """The exchange is over. Whatever is still open closes as neutral. A second call does nothing."""
        while self.live:
            self.ended(self.live[0], ClientGone(), now)
        if self._ticket is not None:
            self.pool.queue.leave(self._ticket)
            self.admitted = self.admitted or self._ticket.granted
            self._ticket = None
        if self.admitted:
            self.admitted = False
            self.pool.in_flight -= 1
