"""Plans: what cannot work is refused where it is written, with the numbers that would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from servegate.config import validate
from servegate.errors import ConfigError
from servegate.rollout.plan import TTFT_EDGES, Plan, load_plan

ROOT = Path(__file__).parents[3]
CANARY = ROOT / "rollout" / "canary.yaml"


def shown() -> dict[str, Any]:
    """The shipped plan as plain data."""
    data: dict[str, Any] = load_plan(CANARY).model_dump(mode="json")
    return data


def changed(**changes: Any) -> dict[str, Any]:
    """The shipped plan with changes; `checks__errors__share` reaches into the check of that name."""
    data = shown()
    for key, value in changes.items():
        *path, last = key.split("__")
        target: Any = data
        for part in path:
            target = next(item for item in target if item["name"] == part) if isinstance(target, list) else target[part]
        target[last] = value
    return data


def quiet(rate: float) -> dict[str, Any]:
    """The shipped plan for less traffic, without a minimum of requests."""
    steps = [{**step, "min_requests": 0} for step in shown()["steps"]]
    return changed(steps=steps, expect__requests_per_second=rate)


def refusal(data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(data, Plan, "plan.yaml")
    return str(caught.value)


def test_the_shipped_plan_is_read_and_survives_json_exactly() -> None:
    plan = load_plan(CANARY)
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.identity() == plan.identity()
    assert [step.weight for step in plan.steps] == [1, 10, 50, 95, 100]
    assert sum(step.min_time for step in plan.steps) <= 100


def test_another_plan_has_another_identity() -> None:
    other = Plan.model_validate(changed(watchdogs__unready="7s"))
    assert other.identity() != load_plan(CANARY).identity()


def test_the_written_plan_fits_the_published_schema() -> None:
    schema = Plan.model_json_schema()
    jsonschema.validate(shown(), schema)
    wrong = changed(alpha="1")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_every_key_of_the_schema_is_described() -> None:
    schema = Plan.model_json_schema()
    undescribed = [
        f"{name}.{key}"
        for name, model in {"Plan": schema, **schema["$defs"]}.items()
        for key, field in model["properties"].items()
        if "description" not in json.dumps(field) and "$ref" not in field and key not in ("version", "kind")
    ]
    assert undescribed == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": []}, "at least 1"),
        ({"steps": [{"weight": "10%", "min_time": "1m"}]}, "last step must be 100%, not 10%"),
        (
            {"steps": [{"weight": "50%", "min_time": "1m"}, {"weight": "10%", "min_time": "1m"}]},
            "steps must rise: 10% follows 50%",
        ),
        (
            {"steps": [{"weight": "0%", "min_time": "1m"}, {"weight": "100%", "min_time": "1m"}]},
            "first step has weight 0%; 0.01% is the least",
        ),
        ({"checks__errors__share": "70%"}, "add up to 120%"),
        ({"checks__errors__share": "0%"}, "could never fire"),
        ({"checks__errors__name": "ttft"}, "two checks are called 'ttft'"),
        ({"checks__errors__interval": "500ms"}, "shorter than a tick"),
        ({"checks__ttft-slo__over": "300ms"}, "nearest are 250ms and 500ms"),
        ({"checks__ttft__margin": "-5%"}, "such as 10%"),
        ({"checks__ttft__promote_margin": "5%"}, "above margin"),
        ({"checks__ttft__weather": {"sd": "0%"}}, "sd is above 0%"),
        ({"checks__ttft__metric": "latency"}, "'ttft', 'itl', 'tpot'"),
        ({"checks__errors-slo__promote_at_most": "1%"}, "at least at_most"),
        ({"checks__errors-slo__at_most": "0%"}, "between 0% and 100%"),
        ({"checks__errors__odds_ratio": 0.9}, "greater than or equal to 1"),
        ({"alpha": "60%"}, "below 50%"),
        ({"alpha": "0%"}, "above 0%"),
        ({"alpha": 0.01}, "such as 10%"),
        ({"alpha": "200%"}, "more than 100%"),
        ({"tick": 1}, "such as 500ms"),
        ({"tick": "1"}, "such as 500ms"),
        ({"limits__step": "20s"}, "beyond limits.step"),
        ({"expect__requests_per_second": 0}, "greater than 0"),
        ({"version": 2}, "version"),
        ({"on_inconclusive": "promote"}, "'hold', 'rollback' or 'promote-with-warning'"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(changed(**changes))


def test_errors_name_file_line_and_the_nearest_key(tmp_path: Path) -> None:
    text = CANARY.read_text().replace("min_requests: 50", "min_request: 50")
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "min_request: 50" in row)
    with pytest.raises(ConfigError, match=rf"plan\.yaml:{line}:\d+: .*unknown key; did you mean 'min_requests'\?"):
        load_plan(path)


def test_an_unknown_kind_of_check_is_refused_with_the_known_ones() -> None:
    message = refusal(changed(checks__errors__kind="error-rate"))
    assert "errors-vs-stable" in message
    assert "latency-slo" in message


def test_a_plan_without_enough_traffic_says_what_would_do() -> None:
    message = refusal(quiet(0.5))
    assert "check errors could not reach its limit (e-value 200)" in message
    assert "at 0.5 requests/s" in message
    assert "times as long" in message
    assert "requests/s" in message.split("it would take")[1]


def test_the_numbers_that_would_do_do() -> None:
    message = refusal(quiet(0.5))
    assert "check errors could not" in message
    validate(quiet(float(message.rsplit(" or ", 1)[1].split(" ")[0])), Plan, "plan.yaml")


def test_requests_that_would_not_come_in_time_are_refused() -> None:
    message = refusal(changed(expect__requests_per_second=0.5))
    assert "step 10%: min_requests 50 would take 1000s" in message
    assert "6 would fit" in message  # 15 on average; six or more in all but one of 200 times


def test_a_plan_that_could_never_promote_is_refused() -> None:
    tight = changed(checks__ttft__promote_margin="6%")
    assert "could not show within the time limits that an unchanged release is not worse" in refusal(tight)


def test_a_plan_that_never_compares_is_refused() -> None:
    blind = changed(steps=[{"weight": "95%", "min_time": "60s"}, {"weight": "100%", "min_time": "5s"}])
    blind["checks"] = [check for check in blind["checks"] if check["name"] == "ttft"]
    assert "needs a step with 40% to 60%" in refusal(blind)


def test_limits_are_the_share_of_alpha() -> None:
    plan = load_plan(CANARY)
    spent = sum(2.718281828459045 ** -plan.log_limit(check) for check in plan.checks)
    assert spent == pytest.approx(plan.alpha)


def test_the_edges_are_those_of_the_engine() -> None:
    # As served by vLLM 0.32: a check on another time could not be judged.
    assert TTFT_EDGES[4:9] == (0.04, 0.06, 0.08, 0.1, 0.25)
    assert len(TTFT_EDGES) == 22
    assert list(TTFT_EDGES) == sorted(TTFT_EDGES)


# --- bake -------------------------------------------------------------------------------------------------------------


def test_a_bake_is_the_step_before_the_last() -> None:
    steps = [{"weight": "10%", "min_time": "40s"}, {"weight": "50%", "min_time": "20s"}]
    last = {"weight": "100%", "min_time": "5s"}
    written = changed(steps=[*steps, {"weight": "90%", "min_time": "1m", "min_requests": 7}, last])
    short = {**written, "steps": [*steps, last], "bake": {"control": "10%", "min_time": "1m", "min_requests": 7}}
    plan = Plan.model_validate(short)
    assert plan == Plan.model_validate(written)
    assert plan.identity() == Plan.model_validate(plan.model_dump(mode="json")).identity()
    assert [step.weight for step in plan.steps] == [10, 50, 90, 100]
    jsonschema.validate(short, Plan.model_json_schema())


@pytest.mark.parametrize(
    ("bake", "message"),
    [
        ({"control": "1%", "min_time": "1m"}, "bake: a control of 1% is not within 5% and 50%"),
        ({"control": "60%", "min_time": "1m"}, "bake: a control of 60% is not within 5% and 50%"),
        ({"control": "5%"}, "bake.min_time"),
        ({"control": "5%", "min_time": "1m", "weigth": "5%"}, "bake.weigth"),
        ({"control": "50%", "min_time": "1m"}, "steps must rise: 50% follows 95%"),
        ({"control": "20%", "min_time": "1h"}, "steps must rise: 80% follows 95%"),
    ],
)
def test_an_impossible_bake_is_refused(bake: dict[str, Any], message: str) -> None:
    assert message in refusal(changed(bake=bake))


def test_what_is_never_promoted_has_no_bake() -> None:
    shadow = {"version": 1, "name": "s", "expect": {"requests_per_second": 1}, "strategy": "shadow", "alpha": "1%"}
    shadow |= {"steps": [{"weight": "0%", "min_time": "1m"}], "shadow": {"mirror": "10%"}}
    Plan.model_validate(shadow)
    assert "bake is for strategies that promote, not for shadow" in refusal(
        {**shadow, "bake": {"control": "5%", "min_time": "1m"}}
    )


def test_blue_green_with_a_bake_keeps_a_control() -> None:
    data = changed(strategy="blue-green", steps=[{"weight": "100%", "min_time": "30s"}])
    data["bake"] = {"control": "50%", "min_time": "2m"}
    assert [step.weight for step in Plan.model_validate(data).steps] == [50, 100]
