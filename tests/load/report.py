"""What a load brought: latencies as percentiles, goodput under an SLO, and what went wrong."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from client import Answer

PERCENTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class Slo:
    """Seconds."""

    ttft: float
    tpot: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of them do not exceed. REQUIRES: values."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def ttft(answer: Answer) -> float:
    return answer.event_times[0] - answer.sent


def tpot(answer: Answer) -> float | None:
    """Seconds a token after the first; None where there is no second."""
    if answer.tokens < 2:
        return None
    return (answer.event_times[-1] - answer.event_times[0]) / (answer.tokens - 1)


def gaps(answer: Answer) -> list[float]:
    """Between one event and the next: the inter-token latency, where a step makes one token."""
    times = answer.event_times
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def meets(answer: Answer, slo: Slo) -> bool:
    per_token = tpot(answer)
    return ttft(answer) <= slo.ttft and (per_token is None or per_token <= slo.tpot)


def summarize(answers: Sequence[Answer], failures: Sequence[str], slo: Slo) -> dict[str, Any]:
    """`answers` are those that came whole, refusals too; `failures` the rest, by why."""
    complete = [a for a in answers if a.status == 200 and a.done and a.event_times]
    duration = max((a.end for a in answers), default=0.0) - min((a.sent for a in answers),
                                                                default=0.0)
    latencies = {
        "ttft_s": [ttft(a) for a in complete],
        "tpot_s": [t for a in complete if (t := tpot(a)) is not None],
        "itl_s": [gap for a in complete for gap in gaps(a)],
        "e2e_s": [a.end - a.sent for a in complete],
        "refusal_s": [a.end - a.sent for a in answers if a.status in (429, 503)],
    }
    good = sum(meets(a, slo) for a in complete)
    tokens = sum(a.tokens for a in complete)
    return {
        "requests": len(answers) + len(failures),
        "complete": len(complete),
        "statuses": dict(collections.Counter(str(a.status) for a in answers)),
        "failures": dict(collections.Counter(failures)),
        "duration_s": duration,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / duration if duration else 0.0,
        "slo": dataclasses.asdict(slo),
        "goodput_per_s": good / duration if duration else 0.0,
        "goodput_share": good / len(complete) if complete else 0.0,
        **{name: {f"p{p}": percentile(values, p) for p in PERCENTILES}
           for name, values in latencies.items() if values},
    }


def render(summary: dict[str, Any]) -> str:
    lines = [
        f"requests      {summary['requests']}, complete {summary['complete']}, "
        f"statuses {summary['statuses']}, failures {summary['failures']}",
        f"throughput    {summary['output_tokens_per_s']:.0f} tokens/s over "
        f"{summary['duration_s']:.1f} s",
        f"goodput       {summary['goodput_per_s']:.2f} requests/s "
        f"({100 * summary['goodput_share']:.1f} % within TTFT {summary['slo']['ttft']} s and "
        f"TPOT {summary['slo']['tpot']} s)",
    ]
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "refusal_s"):
        if name in summary:
            values = "  ".join(f"{p} {1000 * v:.1f}" for p, v in summary[name].items())
            lines.append(f"{name[:-2]:<13} {values}  ms")
    if "mismatches" in summary:
        lines.append(f"verification  {summary['verified']} answers compared, "
                     f"{summary['mismatches']} differ")
    return "\n".join(lines)
