"""What is deployed: manifests by their schemas, and every figure that a panel or an alert asks for is one of ours."""

import json
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from feedback_loop.capture import Spool
from feedback_loop.cli import app
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings, load_settings
from feedback_loop.scheduling.metrics import LoopFigures
from feedback_loop.serving.board import Board
from feedback_loop.serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY, KUBERNETES = ROOT / "deploy", ROOT / "examples" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").rglob("*.json"))}
OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus gives by itself."""


def objects():
    return [(path.name, each) for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


@pytest.mark.parametrize(
    ("name", "manifest"), objects(), ids=lambda part: part if isinstance(part, str) else part["kind"]
)
def test_manifests_follow_kubernetes_schemas(name, manifest):
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def pod_of(manifest):
    """A manifest's pod and the labels of it; None where it has none."""
    spec = manifest["spec"]
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template")


def test_manifests_name_only_what_is_there():
    generated = {each["name"] for kind in ("configMapGenerator", "secretGenerator") for each in KUSTOMIZATION[kind]}
    files = [name for each in KUSTOMIZATION["configMapGenerator"] for name in each["files"]]
    files += [name for each in KUSTOMIZATION["secretGenerator"] for name in each["envs"]]
    for name in [*KUSTOMIZATION["resources"], *files]:
        assert (KUBERNETES / name).is_file()
    pods = {name: pod for name, each in objects() if (pod := pod_of(each) if "spec" in each else None)}
    labels = [pod["metadata"]["labels"] for pod in pods.values() if "metadata" in pod]
    for _, each in objects():
        selector = each.get("spec", {}).get("selector", {})
        selector = selector.get("matchLabels", selector)
        assert not selector or any(selector.items() <= of_pod.items() for of_pod in labels)
    images = {image["name"] for image in KUSTOMIZATION["images"]}
    for pod in pods.values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            assert container["image"] in images
            assert container["securityContext"]["readOnlyRootFilesystem"]
            named = {volume["name"] for volume in pod["spec"]["volumes"]} | {"disk"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= named
            assert {source["secretRef"]["name"] for source in container["envFrom"]} <= generated


def commands():
    """The command lines of all of ours, in the manifests and in the compose file."""
    lines = [
        container.get("args", container.get("command"))
        for _, each in objects()
        if "spec" in each and (pod := pod_of(each))
        for container in pod["spec"]["containers"]
    ]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    return [
        line for line in [*lines, *(each.get("command") for each in services)] if line and line[0] == "feedback-loop"
    ]


def test_every_command_line_is_one_of_ours():
    group = typer.main.get_command(app)
    lines = commands()
    assert {line[1] for line in lines} >= {"serve", "scheduler", "dashboard"}
    for _, name, *arguments in lines:
        group.commands[name].make_context(name, [*arguments])


def test_the_configuration_of_the_example_is_read():
    assert list(load_settings(KUBERNETES / "feedback_loop.toml").models) == ["churn"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The labels of every figure that servers, schedulers and pages show, by its name."""
    folder = tmp_path_factory.mktemp("figures")
    board = Board(folder / "board", ["churn"])
    board.open()
    board.request_began()
    board.request_done("invocations", 500, 0.1)
    board.batch_done(1)
    board.show_versions([("churn", "champion", "1")])
    spool = Spool(folder / "spool", CaptureSettings(), lambda _: LogSettings(), "aa")
    families = list(Metrics(board, spool, system_clock).collect())
    board.close()
    spool.close()
    registry = CollectorRegistry()
    registry.register(LoopFigures(None, [], system_clock))
    labels = {"up": set()}
    for family in [*families, *registry.collect()]:
        of_family = set(getattr(family, "_labelnames", ())).union(*(sample.labels for sample in family.samples))
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        labels |= {f"{family.name}{ending}": of_family for ending in endings}
    return labels


def selectors(expression):
    """All vector selectors in a parsed expression, each with the labels that it is grouped by."""
    grouped = getattr(getattr(expression, "modifier", None), "labels", None) or []
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression, []
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        inner = getattr(expression, name, None)
        for part in inner if isinstance(inner, list) else [inner]:
            if hasattr(part, "prettify"):
                for selector, labels in selectors(part):
                    yield selector, [*labels, *grouped]


def queries():
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            yield from ((f"{name}: {panel['title']}", target["expr"]) for target in panel["targets"])


@pytest.mark.parametrize(("title", "query"), list(queries()), ids=lambda text: text[:40])
def test_what_panels_and_alerts_ask_for_is_exported(exported, title, query):
    asked = list(selectors(promql_parser.parse(query.replace("$__rate_interval", "5m"))))
    assert asked
    for selector, grouped in asked:
        matched = [matcher.name for matcher in selector.matchers.matchers]
        assert {*matched, *grouped} <= exported[selector.name] | OF_PROMETHEUS, title


def test_every_figure_of_the_loop_is_on_a_dashboard_or_in_an_alert(exported):
    asked = {
        selector.name
        for _, query in queries()
        for selector, _ in selectors(promql_parser.parse(query.replace("$__rate_interval", "5m")))
    }
    unasked = {name.removesuffix("_sum").removesuffix("_count") for name in exported.keys() - asked}
    unasked -= {name.removesuffix("_bucket") for name in asked}
    assert unasked == {
        *(f"feedback_loop_{name}_total" for name in ("rows_spooled", "rows_stored", "rows_unsampled")),
        *(f"feedback_loop_outcomes_{name}" for name in ("stored_total", "refused_total", "missing")),
    }  # where rows go that are well


def test_dashboards_are_provisioned_whole():
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "feedback_loop.yaml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        panels, taken = dashboard["panels"], set()
        assert len({panel["id"] for panel in panels}) == len(panels)
        for panel in panels:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
        sources = [part["datasource"]["uid"] for panel in panels for part in (panel, *panel["targets"])]
        sources += [variable["datasource"]["uid"] for variable in dashboard["templating"]["list"]]
        assert set(sources) == {source["uid"]}


def test_prometheus_asks_services_at_the_ports_on_which_they_answer():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in jobs for each in job.get("static_configs", ()) for target in each["targets"]]
    for target in targets:
        name, _, port = target.partition(":")
        assert services[name]["command"][-1] == port
    [scheduler] = [each for job in jobs for each in job.get("dns_sd_configs", ())]
    assert services[scheduler["names"][0]]["environment"]["FEEDBACK_LOOP_SCHEDULER__METRICS"].endswith(
        f":{scheduler['port']}"
    )
    servers = [name for name in services if name.startswith("server-")]
    assert {f"{name}:5001" for name in servers} <= set(targets)
    assert all(f"server {name}:5001" in (DEPLOY / "nginx.conf").read_text() for name in servers)
