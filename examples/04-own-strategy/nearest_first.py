"""A selection strategy: servers of one zone first, the others when those are busy."""

import router


class NearestFirst:
    class Options(router.Options):
        """The zone to prefer, and how many requests at one server make it busy."""

        zone: str
        spill_at: int = 10

    def __init__(self, options: Options, tools: router.Tools) -> None:
        self.options = options
        self.rng = tools.rng

    def choose(self, candidates: router.Candidates, exchange: router.Exchange) -> router.Endpoint:
        near = [one for one in candidates if one.spec.zone == self.options.zone]
        free = [one for one in near if one.load < self.options.spill_at]
        fitting = free or list(candidates)
        least = min(one.load / one.weight for one in fitting)
        equals = [one for one in fitting if one.load / one.weight == least]
        return self.rng.choices(equals, [one.weight for one in equals])[0]
