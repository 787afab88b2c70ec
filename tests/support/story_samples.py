"""A demo as it could have been: two releases through the pipeline, seeded."""

from __future__ import annotations

import math
import random

from report_samples import START, make_answers, make_release, make_reports, make_verdict

from servegate.report.records import CanaryTick, Evidence, RequestRecord, SlotTick
from servegate.report.story import Defect, ReleaseStory

STEPS = (1.0, 10.0, 50.0, 95.0, 100.0)


def make_canary(seed: int, defect_at: float | None) -> tuple[list[CanaryTick], list[RequestRecord]]:
    """Ticks of 1 s and 20 requests/s; with a defect half of the candidate's requests fail from `defect_at` on."""
    rng = random.Random(seed)
    ticks: list[CanaryTick] = []
    records: list[RequestRecord] = []
    phase, step, in_phase, log_e, log_ok = "PREPARING", 0, 0, 0.0, 0.0
    for second in range(400):
        reason = ""
        if phase == "PREPARING" and in_phase >= 12:
            phase, in_phase, reason = "STEP", 0, "candidate is ready and warm: 1 % of the traffic"
        elif phase == "STEP" and in_phase >= (25, 35, 40, 40)[step]:
            in_phase = 0
            if step == 3:
                phase, reason = "PROMOTED", "every check has its evidence: green is stable now"
            else:
                step += 1
                reason = f"held at {STEPS[step - 1]:g} % for its time: on to {STEPS[step]:g} %"
        elif phase == "STEP" and log_e >= 6.2:
            phase, in_phase = "ROLLING_BACK", 0
            reason = "errors: 23 of 47 requests failed on green, 0 of 421 on blue (evidence 6.4, limit 6.2)"
        elif phase == "ROLLING_BACK" and in_phase >= 3:
            phase, in_phase = "ROLLED_BACK", 0
        weight = {"STEP": STEPS[step], "PROMOTED": 100.0}.get(phase, 0.0)
        at = START + second
        counts = {"blue": [0, 0], "green": [0, 0]}
        times: dict[str, list[float]] = {"blue": [], "green": []}
        for index in range(20):
            slot = "green" if rng.random() * 100 < weight else "blue"
            bad = slot == "green" and defect_at is not None and second >= defect_at and rng.random() < 0.5
            sent = at + index / 20
            ttft = rng.lognormvariate(-1.6, 0.45)
            counts[slot][0] += 1
            counts[slot][1] += bad
            times[slot].append(ttft)
            records.append(
                RequestRecord(
                    id=len(records),
                    scheduled=sent,
                    sent=sent,
                    first_token=None if bad else sent + ttft,
                    last_token=None if bad else sent + ttft + 0.8,
                    done=sent + ttft + 0.8,
                    ok=not bad,
                    status=500 if bad else 200,
                    error="http_500" if bad else None,
                    slot=slot,
                )
            )
        log_e = max(-2.0, log_e + 0.55 * counts["green"][1] - 0.02 * counts["green"][0])
        log_ok += 0.012 * counts["green"][0] if phase == "STEP" else 0
        ticks.append(
            CanaryTick(
                at=at,
                phase=phase,
                step=step if phase == "STEP" else None,
                stable="blue" if phase != "PROMOTED" else "green",
                weights={"blue": 100 - weight, "green": weight},
                candidate="green",
                reason=reason,
                slots={
                    slot: SlotTick(
                        requests=n,
                        failures=bad,
                        running=3,
                        waiting=0,
                        ready=True,
                        ttft_p50=sorted(times[slot])[len(times[slot]) // 2] if n else None,
                        ttft_p95=max(times[slot]) if n else None,
                    )
                    for slot, (n, bad) in counts.items()
                },
                evidence=(
                    Evidence(
                        check="errors against stable",
                        log_e=log_e,
                        log_limit=6.2,
                        promote_log_e=min(log_ok, 5.0),
                        promote_log_limit=4.0,
                    ),
                    Evidence(
                        check="TTFT against stable",
                        log_e=-0.8 + 0.6 * math.sin(second / 23),
                        log_limit=6.2,
                        promote_log_e=min(log_ok * 0.8, 5.0),
                        promote_log_limit=4.0,
                    ),
                    Evidence(check="errors against the SLO", log_e=log_e * 0.6 - 0.3, log_limit=6.2),
                )
                if phase != "PREPARING"
                else (),
            )
        )
        in_phase += 1
        if (phase == "PROMOTED" and in_phase > 20) or (phase == "ROLLED_BACK" and in_phase > 10):
            break
    return ticks, records


def make_stories() -> list[ReleaseStory]:
    good_ticks, good_records = make_canary(1, None)
    bad_ticks, bad_records = make_canary(2, 45)
    return [
        ReleaseStory(
            name="v1.1.0",
            outcome="promoted",
            release=make_release("v1.1.0"),
            stable="v1.0.0",
            reason="Every check has its evidence that v1.1.0 is not worse than v1.0.0.",
            reports=make_reports("v1.1.0"),
            verdict=make_verdict(),
            ticks=good_ticks,
            records=good_records,
            eval_records=make_answers(),
        ),
        ReleaseStory(
            name="v1.2.0",
            outcome="rolled_back",
            release=make_release("v1.2.0"),
            stable="v1.1.0",
            reason="errors: 23 of 47 requests failed on v1.2.0, 0 of 421 on v1.1.0 (evidence 6.4, limit 6.2).",
            reports=make_reports("v1.2.0"),
            verdict=make_verdict(),
            ticks=bad_ticks,
            records=bad_records,
            defect=Defect("half of the requests are answered with status 500", START + 45),
            eval_records=make_answers(),
        ),
    ]
