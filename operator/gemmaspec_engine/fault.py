"""Telling a broken drafter from traffic that is merely hard, under continuous looking.

Everything here is a likelihood ratio whose expectation stays 1 while the null hypothesis holds. By
Ville's inequality such a ratio exceeds e^h with probability at most e^-h over the whole life of an engine,
however often one looks. Requests cluster, so the null is beta-binomial: each request draws its own rate.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

FAULT = "fault"
HEALTHY = "healthy"


class FaultDetector:
    """Has this engine ever accepted a draft? Fed with position 0 only, which every K drafts.

    Three ratios run side by side. "The drafter is broken" is an even mixture of the rates `BROKEN`:

    - over healthy clustered traffic, rates ~ Beta with mean `HEALTHY_MEAN` and `CONCENTRATION` per
      request; it must reach ln(1 / false_alarm);
    - over weak but working traffic at `weak`; it must reach ln(1 / WEAK_ALARM). With `weak_concentration`
      the weak rate, too, differs between requests, which takes more of them to tell from a fault;
    - for "it works" against a rate of at most `LIMIT`; reaching ln(1 / WRONG_PROOF) proves acceptance,
      and from then on no drop is ever called a fault.

    A fault also needs drafts from at least `REQUESTS` requests, no more of them accepted than `LIMIT` explains.
    Either verdict is final for the engine.

    Args:
        false_alarm: probability of ever calling a healthy engine faulty.
        weak: acceptance that must not be called a fault although it hardly ever pays.
        weak_concentration: of the Beta distribution of `weak` between requests, None = all alike.

    Raises:
        ValueError: an argument outside (0, 1).
    """

    BROKEN = (0.001, 0.01)
    LIMIT = 0.02
    HEALTHY_MEAN = 0.4
    CONCENTRATION = 20.0
    WEAK_ALARM = 0.005
    WRONG_PROOF = 1e-5
    REQUESTS = 3
    CLUSTER = 250
    HOPELESS = 120
    OPEN = 256

    def __init__(
        self, *, false_alarm: float = 1e-9, weak: float = 0.1, weak_concentration: float | None = 20.0
    ) -> None:
        if not 0.0 < false_alarm < 1.0:
            raise ValueError(f"false_alarm must lie between 0 and 1, got {false_alarm!r}")
        if not self.LIMIT < weak < 1.0:
            raise ValueError(f"weak must lie between {self.LIMIT} and 1, got {weak!r}")
        if weak_concentration is not None and not weak_concentration > 0.0:
            raise ValueError(f"weak_concentration must be above 0, got {weak_concentration!r}")
        self.false_alarm = false_alarm
        self.weak_concentration = weak_concentration or 1e12
        self.weak = weak
        self.verdict: str | None = None
        self.drafts = 0
        self.accepted = 0
        self.requests = 0
        # Log-likelihoods of what was seen: healthy, weak, and the two rates of a broken drafter.
        self._healthy = self._weak = self._low = self._high = 0.0
        self._proof = 0.0
        self._need = math.log(1.0 / false_alarm)
        self._open: dict[Hashable, list[float]] = {}
        self._steps = [(math.log(1.0 - rate), math.log(rate)) for rate in (*self.BROKEN, self.LIMIT)]

    def observe(self, accepted: Sequence[int], requests: Sequence[Hashable] = ()) -> str | None:
        """Take in one step that drafted (K >= 1); returns the verdict, if there is one.

        Args:
            accepted: accepted drafts of each request; only "none" or "some" matters.
            requests: their ids; without ids every `CLUSTER` drafts count as one request.
        """
        if self.verdict is not None:
            return self.verdict
        for i, count in enumerate(accepted):
            key: Hashable = requests[i] if requests else f"anonymous-{self.drafts // self.CLUSTER}"
            self._draft(key, 1 if count > 0 else 0)
        return self._decide()

    def observe_window(self, drafts: int, accepted: int, requests: int = 0) -> str | None:
        """Take in counters of a window: drafts, drafts accepted at position 0, requests they belong to.

        The requests are taken to be alike, which understates how much they differ and therefore gives
        the healthy hypothesis the least probability it can have: use per-step data where there is any.

        Raises:
            ValueError: more accepted than drafted, or a negative count.
        """
        if not 0 <= accepted <= drafts or requests < 0:
            raise ValueError(f"counts contradict each other: {drafts=}, {accepted=}, {requests=}")
        if self.verdict is not None or drafts == 0:
            return self.verdict
        groups = requests or max(1, drafts // self.CLUSTER)
        n, s = drafts / groups, accepted / groups
        rejected = drafts - accepted
        self._healthy += groups * _cluster(self.HEALTHY_MEAN, self.CONCENTRATION, n, s)
        self._weak += groups * _cluster(self.weak, self.weak_concentration, n, s)
        low, high, limit = (accepted * step[1] + rejected * step[0] for step in self._steps)
        self._low, self._high = self._low + low, self._high + high
        before = _log_beta(1.0 + self.accepted, 1.0 + self.drafts - self.accepted)
        self.drafts, self.accepted = self.drafts + drafts, self.accepted + accepted
        self.requests += groups
        after = _log_beta(1.0 + self.accepted, 1.0 + self.drafts - self.accepted)
        self._proof += after - before - limit
        return self._decide()

    def evidence(self) -> dict[str, float]:
        """The running log-likelihood ratios and the thresholds they must reach, in nats."""
        return {
            "healthy": self._against(self._healthy),
            "healthyNeeded": self._need,
            "weak": self._against(self._weak),
            "weakNeeded": -math.log(self.WEAK_ALARM),
            "proof": self._proof,
            "proofNeeded": -math.log(self.WRONG_PROOF),
        }

    @property
    def hopeless(self) -> bool:
        """No verdict, but no more drafts of enough requests were accepted than `LIMIT` explains: nothing is lost
        by waiting for the verdict without drafts.
        """
        enough = self.drafts >= self.HOPELESS and self.requests >= self.REQUESTS
        return self.verdict is None and enough and self.accepted <= self._tolerated()

    def explain(self) -> str:
        """One sentence on the verdict, with its numbers."""
        seen = f"{self.accepted} of {self.drafts} first drafts accepted over {self.requests} requests"
        if self.verdict == FAULT:
            return f"the drafter is broken: {seen} since this engine began"
        if self.verdict == HEALTHY:
            return f"the drafter works: {seen} when it was proved"
        return (
            f"no verdict yet: {seen}; evidence of a fault against healthy traffic {self._against(self._healthy):.1f} "
            f"of {self._need:.1f} nats, against weak traffic {self._against(self._weak):.1f} of "
            f"{-math.log(self.WEAK_ALARM):.1f}"
        )

    def _against(self, null: float) -> float:
        """Log-likelihood ratio of "broken" over a null hypothesis."""
        low, high = self._low, self._high
        return max(low, high) + math.log1p(math.exp(-abs(low - high))) - math.log(2.0) - null

    def _draft(self, key: Hashable, hit: int) -> None:
        request = self._open.get(key)
        if request is None:
            if len(self._open) >= self.OPEN:
                del self._open[next(iter(self._open))]
            request = self._open[key] = [0.0, 0.0]
            self.requests += 1
        n, s = request
        rate = (self.CONCENTRATION * self.HEALTHY_MEAN + s) / (self.CONCENTRATION + n)
        self._healthy += math.log(rate if hit else 1.0 - rate)
        rate = (self.weak_concentration * self.weak + s) / (self.weak_concentration + n)
        self._weak += math.log(rate if hit else 1.0 - rate)
        self._low += self._steps[0][hit]
        self._high += self._steps[1][hit]
        pooled = (1.0 + self.accepted) / (2.0 + self.drafts)
        self._proof += math.log(pooled if hit else 1.0 - pooled) - self._steps[2][hit]
        request[0] += 1.0
        request[1] += hit
        self.drafts += 1
        self.accepted += hit

    def _decide(self) -> str | None:
        # The mixture also favours rates below LIMIT; only an excess of acceptances is a proof.
        if self._proof >= -math.log(self.WRONG_PROOF) and self.accepted > self.LIMIT * self.drafts:
            self.verdict = HEALTHY
        elif (
            self.requests >= self.REQUESTS
            and self.accepted <= self._tolerated()
            and self._against(self._healthy) >= self._need
            and self._against(self._weak) >= -math.log(self.WEAK_ALARM)
        ):
            self.verdict = FAULT
        if self.verdict is not None:
            self._open.clear()
        return self.verdict

    def _tolerated(self) -> float:
        """Acceptances that a rate of `LIMIT` explains: its mean and one and a half standard deviations."""
        mean = self.LIMIT * self.drafts
        return mean + 1.5 * math.sqrt(mean)

    def export_state(self) -> dict[str, Any]:
        """Counts, ratios and open requests whose id JSON can hold."""
        return {
            "verdict": self.verdict,
            "counts": [self.drafts, self.accepted, self.requests],
            "likelihoods": [self._healthy, self._weak, self._low, self._high, self._proof],
            "open": [[key, *value] for key, value in self._open.items() if isinstance(key, (str, int))],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_state` gave."""
        self.verdict = state["verdict"]
        self.drafts, self.accepted, self.requests = (int(x) for x in state["counts"])
        sums = (float(x) for x in state["likelihoods"])
        self._healthy, self._weak, self._low, self._high, self._proof = sums
        self._open = {key: [float(n), float(s)] for key, n, s in state["open"]}


def _cluster(mean: float, concentration: float, drafts: float, accepted: float) -> float:
    """Log-probability of the outcomes of one request, in their order, whose rate ~ Beta."""
    if concentration > 1e9:  # the beta functions cancel; so many pseudo-drafts are a fixed rate
        return accepted * math.log(mean) + (drafts - accepted) * math.log(1.0 - mean)
    a, b = concentration * mean, concentration * (1.0 - mean)
    return _log_beta(a + accepted, b + drafts - accepted) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class MixDetector:
    """Notices that requests accept differently than they used to: CUSUM over beta-binomial likelihoods.

    Each request draws its rate from Beta(concentration, mean); the alternatives are the same with the mean
    moved by `SHIFTS` on the logit scale. For every alternative the log-likelihood ratio of each draft,
    given the earlier drafts of its request, feeds one CUSUM. Given the past, every increment has
    exponential expectation 1 while nothing changes, so by the Shiryaev-Roberts martingale the mean number
    of drafts to a false alarm is at least `false_alarm_drafts`, clustering and all.

    Args:
        mean: acceptance at position 0 before the change.
        concentration: of the Beta distribution between requests.
        false_alarm_drafts: mean drafts between false alarms.

    Raises:
        ValueError: an argument out of range.
    """

    SHIFTS = (-2.5, -1.6, -1.0, -0.6, 0.6, 1.0, 1.6, 2.5)
    OPEN = 256

    def __init__(self, mean: float, *, concentration: float = 20.0, false_alarm_drafts: float = 1e6) -> None:
        if not 0.0 < mean < 1.0:
            raise ValueError(f"mean must lie between 0 and 1, got {mean!r}")
        if not concentration > 0.0 or not false_alarm_drafts > 1.0:
            raise ValueError("concentration must be above 0 and false_alarm_drafts above 1")
        self.mean = mean
        self.concentration = concentration
        logit = math.log(mean / (1.0 - mean))
        self._means = [1.0 / (1.0 + math.exp(-logit - shift)) for shift in self.SHIFTS]
        self.threshold = math.log(false_alarm_drafts * len(self.SHIFTS))
        self._sums = [0.0] * len(self.SHIFTS)
        self._open: dict[Hashable, list[float]] = {}
        self.drafts = 0
        self.changed_to: float | None = None

    def observe(self, accepted: Sequence[int], requests: Sequence[Hashable]) -> bool:
        """Take in one step that drafted; True once the mix has changed, and from then on."""
        for count, key in zip(accepted, requests, strict=True):
            request = self._open.get(key)
            if request is None:
                if len(self._open) >= self.OPEN:
                    del self._open[next(iter(self._open))]
                request = self._open[key] = [0.0, 0.0]
            hit = count > 0
            self._step(request, hit)
            request[0 if hit else 1] += 1.0
            self.drafts += 1
        return self.changed_to is not None

    def observe_request(self, drafts: int, accepted: int) -> bool:
        """Take in a finished request, or a window of one, at once.

        Raises:
            ValueError: more accepted than drafted.
        """
        if not 0 <= accepted <= drafts:
            raise ValueError(f"{accepted} accepted of {drafts} drafts")
        base = self._log_likelihood(self.mean, drafts, accepted)
        for i, mean in enumerate(self._means):
            gain = self._log_likelihood(mean, drafts, accepted) - base
            self._sums[i] = max(0.0, self._sums[i] + gain)
        self.drafts += drafts
        return self._alarm()

    @property
    def statistic(self) -> float:
        """The largest CUSUM, in nats; an alarm is raised at `threshold`."""
        return max(self._sums)

    def _log_likelihood(self, mean: float, drafts: int, accepted: int) -> float:
        return _cluster(mean, self.concentration, drafts, accepted)

    def _step(self, request: list[float], hit: bool) -> None:
        c, own = self.concentration, request[0 if hit else 1]
        base = c * (self.mean if hit else 1.0 - self.mean) + own
        sums = self._sums
        for i, mean in enumerate(self._means):
            gain = sums[i] + math.log((c * (mean if hit else 1.0 - mean) + own) / base)
            sums[i] = gain if gain > 0.0 else 0.0
        self._alarm()

    def _alarm(self) -> bool:
        if self.changed_to is None:
            best = max(range(len(self._sums)), key=self._sums.__getitem__)
            if self._sums[best] >= self.threshold:
                self.changed_to = self._means[best]
        return self.changed_to is not None

    def export_state(self) -> dict[str, Any]:
        """The running sums and the open requests whose id JSON can hold."""
        opened = [[key, *value] for key, value in self._open.items() if isinstance(key, (str, int))]
        return {
            "mean": self.mean,
            "sums": list(self._sums),
            "drafts": self.drafts,
            "changed_to": self.changed_to,
            "open": opened,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `export_state` gave.

        Raises:
            ValueError: the state belongs to another mean.
        """
        if state["mean"] != self.mean:
            raise ValueError(f"state was gathered against mean {state['mean']}, not {self.mean}")
        self._sums = [float(x) for x in state["sums"]]
        self.drafts, self.changed_to = int(state["drafts"]), state["changed_to"]
        self._open = {key: [float(s), float(f)] for key, s, f in state["open"]}


def information(before: float, after: float, concentration: float, drafts: int) -> float:
    """Kullback-Leibler information of one request of `drafts` drafts for the change, in nats.

    KL(beta-binomial after || before); divided into the threshold it gives Lorden's bound in requests. For
    large concentration it tends to drafts x KL(Bernoulli): the ratio of the two is the effective sample.
    """
    total = 0.0
    for s in range(drafts + 1):
        p, q = (_cluster(m, concentration, drafts, s) for m in (after, before))
        ways = math.lgamma(drafts + 1) - math.lgamma(s + 1) - math.lgamma(drafts - s + 1)
        total += math.exp(ways + p) * (p - q)
    return total


class Sprt:
    """Wald's sequential probability ratio test for a rate: is it at least `high`, or at most `low`?

    Args:
        low, high: the two hypotheses, low < high.
        false_accept: probability of calling `low` good enough.
        false_reject: probability of calling `high` not good enough.
        design_effect: how much less a draft weighs because requests cluster, 1 = not at all
            (Kish: 1 + (drafts per request - 1) / (concentration + 1)).

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        false_accept: float = 0.01,
        false_reject: float = 0.05,
        design_effect: float = 1.0,
    ) -> None:
        if not 0.0 < low < high < 1.0:
            raise ValueError(f"need 0 < low < high < 1, got {low!r} and {high!r}")
        if not 0.0 < false_accept < 0.5 or not 0.0 < false_reject < 0.5 or not design_effect >= 1.0:
            raise ValueError("error probabilities must lie in (0, 0.5), the design effect be at least 1")
        self.low = low
        self.high = high
        self.upper = math.log((1.0 - false_reject) / false_accept)
        self.lower = math.log(false_reject / (1.0 - false_accept))
        self._hit = math.log(high / low) / design_effect
        self._miss = math.log((1.0 - high) / (1.0 - low)) / design_effect
        self.ratio = 0.0
        self.trials = 0

    def observe(self, hits: float, misses: float) -> bool | None:
        """Take in outcomes; True = at least `high`, False = at most `low`, None = look on."""
        if self.upper > self.ratio > self.lower:
            self.ratio += hits * self._hit + misses * self._miss
            self.trials += int(hits + misses)
        return self.decision

    @property
    def decision(self) -> bool | None:
        """The verdict so far."""
        if self.ratio >= self.upper:
            return True
        return False if self.ratio <= self.lower else None
