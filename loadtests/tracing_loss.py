"""No span is lost while the buffer has room: the router ends, is upgraded, and outlives a pause of its collector."""

import tracing_report as must
from bench_main import Result
from change_configs import all_alike, configuration
from fault_report import Verdict
from tracing_house import AGAIN, Collector, Den, Pace, observer
from tracing_receiver import ANSWER, REFUSE

#: Connections with GET and with POST, and requests per second of each: in the burst, around the upgrade, and in the
#: pause, where two spans of each request have to wait.
BURST, BUSY, CALM = (14, 6, 100), (14, 6, 15), (7, 3, 7)
#: Seconds of load after the collector answers again.
AFTERWARDS = 1.0


def play_loss(den: Den, pace: Pace) -> Result:
    den.serve(3)
    collector = den.collector()
    figures: dict[str, object] = {}
    verdicts = []
    for stage in (_burst, _upgrade, _pause):
        found, requests = stage(den, pace, collector)
        figures[stage.__name__[1:]] = requests
        verdicts += found
    return Result("loss", "", figures, verdicts)


def _burst(den: Den, pace: Pace, collector: Collector) -> tuple[list[Verdict], int]:
    """The router is ended right after the last answer, when the exporter is still waiting for a full batch."""
    den.start(observer(collector.endpoint))
    seen = den.sent("burst", *BURST, pace.burst)
    ended = den.ended()
    return [must.none_lost("ended after a burst", seen, collector.spans()), ended], len(seen)


def _upgrade(den: Den, pace: Pace, collector: Collector) -> tuple[list[Verdict], int]:
    # Nothing else asks while processes change, so whatever was asked is known.
    text = configuration(den, den.step, all_alike(den), more=observer(collector.endpoint))
    den.begin_with(text)
    before = {span.instance for span in collector.spans()}
    den.send("upgrade", *BUSY)
    den.wait(pace.around)
    den.upgrade()
    den.wait(pace.around)
    seen = den.saw()
    ended = den.ended()
    spans = collector.spans()
    instances = {span.instance for span in spans} - before
    both = Verdict("upgrade: old and new process name themselves", f"{len(instances)} instances", len(instances) == 2)
    return [must.none_lost("upgrade under load", seen, spans), both, ended], len(seen)


def _pause(den: Den, pace: Pace, collector: Collector) -> tuple[list[Verdict], int]:
    den.start(observer(collector.endpoint))
    den.send("pause", *CALM)
    den.wait(AFTERWARDS)
    collector.end()
    den.wait(pace.gone)
    collector.start(REFUSE)
    den.wait(pace.refusing)
    # The exporter may not have noticed yet that somebody is there.
    den.wait(AGAIN, lambda: collector.told().refused > 0)
    refused = collector.told().refused
    collector.turn(ANSWER)
    den.wait(AFTERWARDS)
    seen = den.saw()
    spans = collector.arrived(seen)
    found = must.none_lost(f"collector gone for {pace.gone:g} s and refusing for {pace.refusing:g} s", seen, spans)
    asked = Verdict("the collector was asked while it refused", f"{refused} times", refused > 0)
    return [found, asked, den.ended()], len(seen)
