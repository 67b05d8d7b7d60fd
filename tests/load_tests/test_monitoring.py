"""The deployed rules, alerts and dashboard, and the program that tries them for real."""

import copy
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from load_tests.monitoring import agreement, dashboard, rules
from load_tests.monitoring.__main__ import FACTOR, KEYS, parse, server_arguments
from load_tests.monitoring.cost import SHARE_MAX, Calls, Cost, Ledger
from load_tests.monitoring.prometheus import configuration, missing_programs
from server.commands import app as commands
from server.config import Settings
from server.telemetry import LATENCY_BUCKETS_S, Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
needs_promtool = pytest.mark.skipif(
    bool(missing_programs()), reason="promtool is not installed (Debian's package prometheus)"
)

RULES = rules.rules_in()
ALERTS = [rule for rule in RULES if rule.is_alert]
RECORDS = [rule for rule in RULES if not rule.is_alert]


@cache
def known_series() -> set[str]:
    """Everything that a server can have on its page, and what is recorded of it."""
    families = Metrics("1").registry.collect()
    names = {rule.name for rule in RECORDS} | {"up", "process_max_fds", "process_open_fds"}
    for family in families:
        parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        names |= {family.name + part for part in parts.get(family.type, ("",))}
    return names | {"process_cpu_seconds_total"}


# Rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_asks_for_series_that_exist(rule: rules.Rule) -> None:
    asked = rules.metrics_in(rule.expression)
    assert asked
    assert sorted(asked - known_series()) == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_has_its_runbook(alert: rules.Rule) -> None:
    assert alert.runbook == f"docs/operations.md#{alert.name.lower()}"
    found = re.search(rf"^### {alert.name}\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, "write its section"
    assert f"`{' '.join(alert.expression.split())}`" in found[1], "the section tells another one"
    assert all(f"\n- {part}: " in found[1] for part in ("Means", "Check", "Do"))


def test_there_is_no_runbook_without_an_alert() -> None:
    assert sorted(re.findall(r"^### (Captiond\w+)$", PAGE, re.MULTILINE)) == sorted(
        alert.name for alert in ALERTS
    )


def test_every_record_is_explained() -> None:
    explained = set(re.findall(r"`(captiond:[a-z0-9_:]+)`", PAGE))
    kin = {re.sub(r"p\d\d_", "p_", name) for name in explained}
    missing = [rule.name for rule in RECORDS if re.sub(r"p\d\d_", "p_", rule.name) not in kin]
    assert missing == []
    assert sorted(explained - {rule.name for rule in RECORDS}) == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_is_tested_both_ways(alert: rules.Rule) -> None:
    """``promtool test rules`` runs them: once it fires, once it stays quiet."""
    text = (DEPLOY / "prometheus" / "tests" / "alerts.test.yml").read_text("utf-8")
    tests = {test["name"]: test for test in yaml.safe_load(text)["tests"]}
    fires, quiet = tests[f"{alert.name} fires"], tests[f"{alert.name} stays quiet"]
    last = fires["promql_expr_test"][-1]
    assert last["exp_samples"]
    assert f'alertname="{alert.name}"' in last["expr"]
    assert all(not each["exp_samples"] for each in quiet["promql_expr_test"])
    if alert.for_s:
        assert not fires["promql_expr_test"][0]["exp_samples"], "not before its time"


@needs_promtool
def test_promtool_has_nothing_to_say() -> None:
    assert rules.promtool_complaints() == []


@needs_promtool
def test_promtool_likes_the_metrics() -> None:
    assert rules.complaints_about_metrics(Metrics("1").render().decode()) == []


def test_the_deployed_configuration_is_the_one_that_is_tried() -> None:
    deployed = yaml.safe_load(rules.CONFIG.read_text("utf-8"))
    assert deployed["global"]["scrape_interval"] == f"{rules.SCRAPE_S:g}s"
    assert deployed["rule_files"] == [path.name for path in rules.RULE_FILES]
    tried = yaml.safe_load(configuration("http://127.0.0.1:8710", [], 1.0))
    assert tried["scrape_configs"][0]["job_name"] == deployed["scrape_configs"][0]["job_name"]
    assert tried["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:8710"]}]


def test_faster_time_changes_durations_alone(tmp_path: Path) -> None:
    copies = rules.rules_in(rules.faster(rules.RULE_FILES, FACTOR, tmp_path))
    assert [rule.name for rule in copies] == [rule.name for rule in RULES]
    for slow, fast in zip(RULES, copies, strict=True):
        assert fast.for_s == pytest.approx(slow.for_s / FACTOR)
        assert re.sub(r"\[\w+\]", "", fast.expression) == re.sub(r"\[\w+\]", "", slow.expression)
    assert rules.in_faster_time("rate(x[5m]) + increase(y[15m])", 15) == (
        "rate(x[20000ms]) + increase(y[60000ms])"
    )


def test_names_in_a_query_are_found_but_not_those_in_its_labels() -> None:
    query = 'sum(rate(captiond_a_total{code="captiond_b"}[5m])) / captiond:c:ratio unless up == 0'
    assert rules.metrics_in(query) == {"captiond_a_total", "captiond:c:ratio", "up"}


def test_what_is_shown_for_kubernetes_can_be_read() -> None:
    shown = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    pod, scaled = (yaml.safe_load(block) for block in shown)
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    named = {each["name"].removeprefix("CAPTIOND_").lower() for each in container["env"]}
    assert named <= Settings.model_fields.keys()
    (trigger,) = scaled["spec"]["triggers"]
    assert rules.metrics_in(trigger["metadata"]["query"]) <= known_series()
    grace_s = pod["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    wait_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert grace_s > wait_s + Settings().drain_s


# Dashboard


def test_the_dashboard_keeps_the_conventions() -> None:
    assert dashboard.complaints(dashboard.load()) == []


@pytest.mark.parametrize(
    "query", dashboard.queries_of(dashboard.load()), ids=lambda q: f"{q.title}: {q.legend}"
)
def test_a_panel_asks_for_series_that_exist(query: dashboard.PanelQuery) -> None:
    asked = rules.metrics_in(query.asked("1m"))
    assert asked
    assert sorted(asked - known_series()) == []
    assert "$" not in query.asked("1m")


def test_every_metric_is_in_the_dashboard_or_recorded() -> None:
    """What nobody looks at need not be measured; build_info is the variable's."""
    expressions = [query.asked("1m") for query in dashboard.queries_of(dashboard.load())]
    expressions += [rule.expression for rule in RULES]
    looked_at = set().union(*map(rules.metrics_in, expressions))
    looked_at = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in looked_at}
    ours = {f.name for f in Metrics("1").registry.collect() if f.name.startswith("captiond_")}
    assert sorted(ours - looked_at) == [
        "captiond_batch_context_seconds",
        "captiond_build_info",
        "captiond_rtfx",
    ]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda p: p.pop("description"), "no description"),
        (lambda p: p["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda p: p["targets"].clear(), "no query"),
        (lambda p: p.update(datasource={"uid": "mine"}), "its data source is not the variable"),
        (lambda p: p["targets"][0].update(expr="up"), "cannot be narrowed"),
        (lambda p: p["targets"][0].update(expr=" "), "an empty query"),
        (lambda p: p["gridPos"].update(x=20), "outside the grid"),
        (lambda p: p["gridPos"].update(y=p["gridPos"]["y"] + 1, h=20), "lies over"),
        (lambda p: p.update(id=1), "two panels have one id"),
    ],
)
def test_a_harmed_panel_is_noticed(harm: object, complaint: str) -> None:
    harmed = copy.deepcopy(dashboard.load())
    panel = next(p for p in dashboard.panels_of(harmed) if p["title"] == "Sessions by protocol")
    assert callable(harm)
    harm(panel)
    assert any(complaint in line for line in dashboard.complaints(harmed))


def test_grafana_finds_what_is_provisioned() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((folder / "dashboards" / "captiond.yaml").read_text())["providers"]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounts = dict(v.split(":")[:2] for v in services["grafana"]["volumes"])
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert source["type"] == "prometheus"
    variable = re.fullmatch(r"\$\{(\w+)\}", source["url"])
    assert variable is not None
    assert variable[1] in services["grafana"]["environment"]
    seconds = yaml.safe_load(rules.CONFIG.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == seconds
    assert "./prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]


# Agreement and cost


@pytest.mark.parametrize(
    ("here", "there", "agrees"),
    [
        (0.45, 0.44, True),
        (0.49, 0.51, True),  # neighbours: a bound lies between them
        (0.25, 0.60, False),
        (None, 0.4, False),
        (11.0, 10.0, True),
    ],
)
def test_delays_agree_within_a_bucket(
    here: float | None, there: float | None, agrees: bool
) -> None:
    pair = agreement.delay_pair("p95", here, there)
    assert pair.agrees is agrees
    assert ("DIFFERS" in pair.line()) is not agrees


def test_the_bucket_of_a_bound_is_the_one_that_it_ends() -> None:
    for number, bound in enumerate(LATENCY_BUCKETS_S):
        assert agreement.bucket_of(bound) == number
        assert agreement.bucket_of(bound + 1e-9) == number + 1


def test_ratios_agree_up_to_a_share() -> None:
    assert agreement.ratio_pair("x", 100.0, 104.9, 0.05).agrees
    assert not agreement.ratio_pair("x", 100.0, 105.1, 0.05).agrees
    assert not agreement.ratio_pair("x", None, 1.0, 0.05).agrees
    assert not agreement.ratio_pair("x", 1.0, None, 0.05).agrees


def test_calls_inside_calls_are_not_counted_again() -> None:
    ledger = Ledger()
    inner = ledger.timed("inner", lambda: 1)
    outer = ledger.timed("outer", lambda: inner() + 1)
    assert outer() == 2
    assert inner() == 1
    assert (ledger.calls["outer"].count, ledger.calls["inner"].count) == (1, 1)


def test_metrics_are_watched_inside_the_block_alone() -> None:
    ledger, metrics = Ledger(), Metrics("1")
    with ledger.keeping():
        metrics.slow_readers.inc()
        metrics.record_call("asr", audio_seconds=1, duration_seconds=0.1, windows=1)
    metrics.slow_readers.inc()
    assert ledger.calls["Counter.inc"].count == 1
    assert ledger.calls["EngineMetrics.record_call"].count == 1
    assert metrics.registry.get_sample_value("captiond_slow_readers_total") == 2


def test_what_the_kernel_interrupted_does_not_count() -> None:
    calls = Calls()
    for took_ns in [1_000] * 99 + [50_000_000]:
        calls.note(took_ns)
    assert calls.mean_ns == 1_000
    assert calls.seconds == pytest.approx(100e-6)
    cost = Cost(300, 30.0, 9_000.0, {"a": calls}, render_s=0.01, cpu_s=1.0, front_cpu_s=0.9)
    assert cost.metrics_s == pytest.approx(100e-6 + 2 * 0.01)
    assert cost.share < SHARE_MAX
    assert cost.is_met
    assert not replace(cost, heard_s=5_000.0).is_met, "nobody was there to be captioned"
    assert not replace(cost, cpu_s=0.1).is_met
    assert "2.01%" in cost.lines()[0]


# The program


def test_its_server_has_engines_that_can_hang_and_keys(tmp_path: Path) -> None:
    words = server_arguments(tmp_path)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--api-keys"] == list(KEYS)
    assert f"hang_file={tmp_path / 'hang'}" in words
    from typer.main import get_command

    group = get_command(commands)
    group.commands["serve"].make_context("serve", list(words))  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [["--streams", "0"], ["--seconds", "10"], ["--unknown"]])
def test_wrong_usage_ends_it(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
