"""The forms of a report, from command to page: hostile names, several seeds, a schema, a real browser."""

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jsonschema
import pytest
from reports import SALUN, drawn, erasure, report, score
from rich.console import Console

from unlearn.errors import BadData
from unlearn.registry import metrics
from unlearn.report import Report, damage, html, markdown, published, recovery, reproduce, schema, table
from unlearn.report.summary import groups, number
from unlearn.report.verdict import CRITERIA, LIMITS, judge
from unlearn.score import Aim, Score


class Page(HTMLParser):
    """Ids, addresses and text of a page."""

    def __init__(self, source):
        super().__init__()
        self.ids, self.links, self.tags, self.text = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        ]

    def handle_data(self, data):
        self.text.append(data)

    @property
    def said(self):
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


# The command


def test_the_command_names_only_what_differs_from_the_defaults():
    values = {**SALUN, "rho": 0.9, "wrong_only": False, "batch_size": 32}
    assert reproduce.command(report(values=values, seed=7)) == (
        "unlearn run salun --scenario digits/class=3 --seed 7 --suite basic --rho 0.9 --batch-size 32"
        " --no-wrong-only"
    )


def test_seeds_that_differ_and_several_oracles_are_named():
    one = report(values=SALUN)
    one.recipe.update(seeds={"train": 1, "draw": 2, "method": 3}, oracles=["a", "b"])
    assert reproduce.command(one).endswith(
        "--train-seed 1 --draw-seed 2 --method-seed 3 --suite basic --oracles 2"
    )


@pytest.mark.parametrize(
    ("measured", "said"),
    [([["accuracy", {}], ["iam", {"shadows": 1}]], ""), ([["iam", {"shadows": 4}]], " --suite standard"),
     ([["klom", {"models": 100, "form": "binned"}]], " --suite full"), ([["klom", {"models": 5}]], " --metrics klom"),
     ([["nowhere", {}]], " --metrics nowhere")],
)  # fmt: skip
def test_the_smallest_suite_with_what_was_measured_is_named(measured, said):
    one = report(values=SALUN)
    full = [[n, {**metrics.get(n)().to_dict(), **v} if n != "nowhere" else v] for n, v in measured]
    one.recipe.update(metrics=full, oracles=["a"] * (2 if "standard" in said else 3 if "full" in said else 1))
    assert reproduce.command(one) == f"unlearn run salun --scenario digits/class=3 --seed 0{said}"


def test_a_method_that_is_not_here_gets_all_its_values_quoted():
    assert reproduce.command(report("nowhere", values={"a b": "x; rm", "k": [1, 2], "none": None})).endswith(
        "'--a b' 'x; rm' --k 1,2 --none none"
    )


# Published numbers


def cifar(fraction=0.1, **options):
    one = report()
    one.recipe["scenario"] = {
        "name": "cifar10",
        "request": {"kind": "random", "fraction": fraction},
        "options": {"network": "resnet18", "limit": 0, **options},
        "text": f"cifar10/random={fraction}",
    }
    return one


def test_published_numbers_appear_in_the_same_setting_only():
    assert published.published(report()) == ()
    assert published.published(cifar(network="resnet20")) == ()
    assert published.published(cifar(limit=500)) == ()
    assert published.published(cifar(0.3)) == ()
    for option in ({"test_limit": 9}, {"weights": "w"}, {"normalise": "imagenet"}):
        assert published.published(cifar(**option)) == (), option
    other, kind = cifar(), cifar()
    other.recipe["scenario"]["name"] = "cifar100"
    kind.recipe["scenario"]["request"]["kind"] = "class"
    assert published.published(other) == published.published(kind) == ()
    said = Page(html.render([cifar()])).said
    assert "Published numbers" in said
    assert "ours: salun 96.00 – 95.00 –" in said
    assert "Published numbers" not in Page(html.render([report()])).said


@pytest.mark.parametrize(("fraction", "printed"), [(0.1, 1.15), (0.5, 2.65)])
def test_published_rows_reproduce_the_gap_that_the_paper_prints(fraction, printed):
    rows = {r.method: r for r in published.published(cifar(fraction))}
    ours, oracle = rows["SalUn"], rows["Retrain"]
    gap = sum(abs(getattr(ours, k) - getattr(oracle, k)) for k in ("ua", "ra", "ta", "mia")) / 4
    assert gap == pytest.approx(printed, abs=0.01)


# The page


def test_the_page_asks_nothing_of_the_network_and_runs_no_script():
    source = html.render([report(), report("ssd")])
    page = Page(source)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", source)
    assert re.findall(r"https?://[^\"' )<]+", source) == []


def test_the_page_holds_the_verdict_every_score_and_the_command():
    one = report(values=SALUN)
    page = Page(html.render([one]))
    assert judge(groups([one])[0]).text in page.said
    assert CRITERIA in page.said
    assert LIMITS in page.said
    for s in one.scores:
        assert s.name in page.said
        assert number(s.value) in page.said
    assert reproduce.command(one) in page.said
    assert page.tags.count("svg") == 3 + 3 + 3 + 3


def test_the_page_says_what_a_run_gave_and_what_it_cost():
    costs = report().costs.model_copy(update={"seconds": 0.2})
    said = Page(html.render([report(values=SALUN, notes=("a limit of this run",), costs=costs)])).said
    for text in (
        "Forgotten examples answered correctly 4.0 % oracle 3.0 % before 99.0 %",
        "Held-out accuracy 95.0 % oracle 95.5 % before 96.0 %",
        "Membership attack, AUC 0.510 oracle 0.500 before 0.700",
        "Time, as a share of retraining 4 %",
        "Faster than retraining 25.0 times",
        "Examples read, forget 90",
        "network resnet8",
        "a limit of this run",
    ):
        assert text in said, text


def test_a_strip_places_a_score_and_its_interval_between_0_and_1():
    group = groups([report()])[0]
    marks = {"original": 99.0, "oracle": 3.0, "unlearned": 4.0}
    assert html.strip(group.forget) == {"marks": marks, "band": (3.0, 2.0)}
    assert html.strip(group.cell("weight-distance/original")) is None


def test_methods_on_one_scenario_alone_share_an_oracle_and_pictures():
    other = report("ssd")
    other.recipe["scenario"]["text"] = "digits/class=4"
    same = html.comparison(groups([report(), report("ssd")]))
    apart = html.comparison(groups([report(), other]))
    assert same["oracle"] == pytest.approx([0.03, 0.955, 0.5])
    assert (len(same["pictures"]), apart["oracle"], apart["pictures"]) == (2, None, [])


def test_ids_are_unique_and_every_reference_is_met():
    page = Page(html.render([report(), report("ssd"), report("none")]))
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_clip_path_that_is_used_exists():
    source = html.render([report()])
    used = set(re.findall(r"url\(#([^)]+)\)", source))
    assert used
    assert used <= set(Page(source).ids)


def test_colours_of_pictures_are_variables_that_both_themes_set():
    source = html.render([report()])
    drawings = "".join(re.findall(r"<svg.*?</svg>", source, flags=re.S))
    assert not re.search(r"#[0-9a-f]{6}\b", drawings)
    used = set(re.findall(r"var\(--([a-z]+)\)", drawings))
    assert used
    light, dark = re.findall(r":root \{(.*?)\}", source, flags=re.S)
    assert used <= set(re.findall(r"--([a-z]+):", light))
    assert used <= set(re.findall(r"--([a-z]+):", dark))


def test_the_page_is_the_same_every_time():
    assert html.render([report()]) == html.render([report()])


def test_hostile_names_are_text():
    evil = "<script>alert(1)</script>"
    one = report(evil, values={"x": evil}, notes=(evil,))
    figure = drawn()
    figure["classes"]["names"] = [evil, "&lt;"]
    page = Page(html.render([one.model_copy(update={"figures": figure}), report('"><img src=x>')]))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert evil in page.said
    outside = re.sub(r"```+sh\n.*?\n```+\n", "", markdown.render([one]), flags=re.S)
    assert "<script>" not in outside


def test_backticks_do_not_end_the_code_block_of_markdown():
    said = markdown.render([report("x```y")])
    assert "\n````sh\n" in said
    assert said.count("\n````\n") == 1


def test_the_page_without_oracle_says_that_nobody_can_tell():
    page = Page(html.render([report(oracle=False)]))
    assert "Cannot tell" in page.said
    assert "no retrained model" in page.said


def test_without_data_of_pictures_the_page_shows_its_scores_and_draws_what_they_give():
    page = Page(html.render([report(figures={})]))
    assert "accuracy/forget" in page.said
    assert page.tags.count("svg") == 1


def test_forgotten_examples_appear_only_where_they_were_collected():
    shown = {**drawn(), "forgotten": [{"png": "aGk=", "label": "3"}]}
    assert "img" in Page(html.render([report(figures=shown)])).tags
    assert "img" not in Page(html.render([report()])).tags


def test_several_seeds_show_mean_and_interval_in_all_three_forms():
    reports = [report(seed=k, test=v) for k, v in enumerate((0.912, 0.905, 0.921, 0.917, 0.908))]
    reports += [report("ssd", seed=k) for k in range(2)]
    assert "0.913 ± 0.008" in Page(html.render(reports)).said
    assert "0.913 ± 0.008" in markdown.render(reports)
    console = Console(width=200, record=True, file=io.StringIO())
    table.show(console, reports)
    said = console.export_text()
    assert "0.913" in said
    assert "±0.008" in said
    assert "oracle" in said


def test_the_table_of_one_run_prints_to_its_console_alone(capsys):
    held = io.StringIO()
    table.show(Console(file=held, width=200), [report()], every=True)
    said = held.getvalue()
    for text in (
        "accuracy/forget",
        "0.040",
        "0.030",
        "weight-distance/original",
        "1.234",
        "Forgotten and kept",
        "0.030–0.050",
        "forget 90",
    ):
        assert text in said
    assert capsys.readouterr().out == ""


def test_the_table_shows_the_headline_alone_and_takes_no_name_for_markup():
    held = io.StringIO()
    scores = (score("[b]x[/b]/y", 0.1, 0.2), *report().scores)
    table.show(Console(file=held, width=200), [report(scores=scores)])
    assert "[b]x[/b]/y" in held.getvalue()
    assert "weight-distance/original" not in held.getvalue()


def test_markdown_has_well_formed_tables():
    blocks = markdown.render([report("a|b"), report("ssd")]).split("\n\n")
    tables = [b.splitlines() for b in blocks if b.startswith("|")]
    assert [len({len(re.findall(r"(?<!\\)\|", row)) for row in t}) for t in tables] == [1] * 5
    assert any(r"a\|b" in row for row in tables[0])
    assert any("accuracy/forget" in row and "**0.040**" in row and "0.030" in row for row in tables[1])


# What each class lost, and what comes back

LOST = {"names": ["ant", "bee", "cat", "dog"], "removed": [1], "n": [10, 10, 10, 0], "by": "oracle",
        "neighbours": [0.7, 0.0, 0.1, 0.2], "accuracy": {"original": [0.9, 1.0, 0.8, None], "unlearned": [0.6, 0.1, 0.9, None],
                                                         "oracle": [0.9, 0.0, 0.8, None]}}  # fmt: skip


def harmed(seed=0, **changes):
    return report(seed=seed, figures={"classes": {**LOST, **changes}})


def test_classes_are_sorted_by_what_they_lost_behind_the_forgotten():
    found = damage.damage([harmed()])
    assert [(r.name, r.removed, r.n, round(r.drop, 6), r.share) for r in found.rows] == [
        ("bee", True, 10, 0.9, 0.0), ("ant", False, 10, 0.3, 0.7), ("cat", False, 10, -0.1, 0.1)
    ]  # fmt: skip
    assert found.models == ("original", "unlearned", "oracle") and (found.hidden, found.seeds) == (0, 1)


def test_classes_are_means_over_seeds_where_the_same_is_forgotten():
    other = {**LOST["accuracy"], "unlearned": [0.8, 0.3, 0.8, None]}
    found = damage.damage([harmed(), harmed(1, accuracy=other, neighbours=[0.5, 0.0, 0.3, 0.2])])
    assert [(r.name, round(r.drop, 6), r.share) for r in found.rows[1:]] == [
        ("ant", 0.2, 0.6),
        ("cat", -0.05, 0.2),
    ]
    assert found.seeds == 2 and "Means over 2 seeds." in found.words
    apart = damage.damage([harmed(), harmed(1, removed=[0])])
    assert apart.seeds == 1 and apart.rows == damage.damage([harmed()]).rows, (
        "another class: only the first seed"
    )


def test_many_classes_are_cut_but_for_neighbours():
    n = 40
    lost = {"original": [1.0] * n, "unlearned": [k / n for k in range(n)]}
    near = [0.0] * (n - 1) + [0.15]
    found = damage.damage([harmed(names=list(map(str, range(n))), removed=[], n=[9] * n, accuracy=lost, by="original", neighbours=near)])  # fmt: skip
    assert [r.name for r in found.rows] == [*map(str, range(20)), "39"] and found.hidden == 19
    assert "19 classes" in found.words and "the original assigns" in found.words
    assert damage.damage([report(figures={})]) is None


def test_the_page_and_the_markdown_show_each_class():
    page = Page(html.render([harmed()])).said
    assert "Class by class" in page and "bee forgotten, n = 10 100.0 % 10.0 % 0.0 % 90.0 %" in page
    assert "ant n = 10 90.0 % 60.0 % 90.0 % 30.0 % 70.0 %" in page
    assert page.index("bee forgotten") < page.index("ant n = 10") < page.index("cat n = 10")
    text = markdown.render([harmed()])
    assert "| class | n | original | unlearned | oracle | drop | neighbour |" in text
    assert "| ant | 10 | 90.0 % | 60.0 % | 90.0 % | 30.0 % | 70.0 % |" in text
    assert "| bee (forgotten) | 10 | 100.0 % | 10.0 % | 0.0 % | 90.0 % |  |" in text
    silent = markdown.render([harmed(by="", neighbours=None)])
    assert "| class | n | original | unlearned | oracle | drop |\n" in silent


def test_what_comes_back_is_one_table_in_one_order():
    names = ("recovery/8-bit", "recovery/pruned", "recovery/pruned/0.5", "relearn/ain", "relearn/steps", "recovery/4-bit",
             "recovery/relearnt", "recovery/relearnt/64")  # fmt: skip
    tried = [Score(name=n, metric=n.split("/")[0], value=0.25, original=0.75, reference=0.5, floor=0.125, aim=Aim.MATCH,
                   note="16 examples learnt again; accuracy after each step: unlearned 0.1; oracle 0.2" if "relearnt" in n else "")
             for n in names]  # fmt: skip
    one = report(scores=(*report().scores, *tried))
    order = ["recovery/relearnt", "recovery/relearnt/64", "relearn/steps", "relearn/ain", "recovery/8-bit", "recovery/4-bit",
             "recovery/pruned", "recovery/pruned/0.5"]  # fmt: skip
    assert [c.name for _, c in recovery.recovered(groups([one])[0])] == order
    page, text = Page(html.render([one])).said, markdown.render([one])
    part = page[page.index("What comes back") :]
    assert (
        "what is tried original unlearned oracle floor" in part
        and "anamnesis index relearn/ain 0.750 0.250 0.500 0.125" in part
    )
    assert "accuracy after each step: unlearned 0.1; oracle 0.2 0.750 0.250 0.500 0.125" in part
    [rows] = [
        b.splitlines()
        for b in text.split("\n\n")
        if b.startswith("| what comes back | original | unlearned | oracle | floor |")
    ]
    assert [n in row for n, row in zip(order, rows[2:], strict=True)] == [True] * 8
    assert "| 0.750 | **0.250** | 0.500 | 0.125 |" in rows[2] and "oracle 0.2" in rows[2]
    assert "What comes back" not in Page(html.render([report()])).said


# JSON


def test_a_saved_report_obeys_the_schema_and_loads_again(tmp_path):
    path = tmp_path / "report.json"
    one = report()
    one.save(path)
    jsonschema.validate(json.loads(path.read_text()), schema())
    assert Report.load(path) == one


def test_the_schema_refuses_what_is_no_report(tmp_path):
    bad = {**report().model_dump(mode="json"), "scores": [{"name": "x"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(BadData, match="scores"):
        Report.load(path)


# A browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0",
]  # fmt: skip
PROBE = """<script>
addEventListener("load", () => {
  const outside = performance.getEntriesByType("resource").map(e => e.name);
  const found = {wide: document.documentElement.scrollWidth, resources: outside,
    pictures: [...document.querySelectorAll("figure svg")].filter(s => s.getBoundingClientRect().height > 40).length};
  document.title = JSON.stringify(found);
});
</script>"""
FRAME = '<iframe style="width:390px;height:3000px;border:0" srcdoc="{}"></iframe>'


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("reports", "pictures"),
    [
        ([report(seed=0), report(seed=1), report("a-method-with-a-long-name", forget=0.7)], 2 * 12 + 2),
        ([erasure(), erasure("uce")], 0),
    ],
    ids=["classifier", "drawings"],
)
def test_the_page_in_a_real_browser_fits_a_phone_and_asks_for_nothing(tmp_path, reports, pictures):
    """Headless windows are never narrower than 500 pixels, so the phone is a frame of 390."""
    source = html.render(reports)
    inner = source.replace("</body>", PROBE.replace("document.title", "parent.document.title") + "</body>")
    path = tmp_path / "page.html"
    quoted = inner.replace("&", "&amp;").replace('"', "&quot;")
    path.write_text(f"<!doctype html><title>none</title>{FRAME.format(quoted)}", encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1].replace("&quot;", '"'))
    assert found["wide"] <= 390
    assert found["resources"] == []
    assert found["pictures"] == pictures
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (score("js/forget", 0.3, 0.1, floor=0.05), 4.0),  # a gap of 0.2
        (Score(name="klom/forget", metric="klom", value=0.3, floor=0.2, aim=Aim.DOWN), 1.5),
        (Score(name="agreement/test", metric="agreement", value=0.9, floor=0.95, aim=Aim.UP), None),
        (score("js/forget", 0.3, 0.1), None),
    ],
)
def test_distances_are_told_in_floors(made, expected):
    """The distance from the oracle over that between two oracles; an agreement is no distance."""
    (group,) = groups([report().model_copy(update={"scores": (made,)})])
    assert group.cells[0].floors == (None if expected is None else pytest.approx(expected))
    said = "" if expected is None else f"{expected:.3f} ×"
    assert said in markdown.render(group.reports)
    console = Console(file=io.StringIO(), width=120)
    table.show(console, group.reports)
    assert said in console.file.getvalue() and said in html.render(group.reports)


def test_attacks_on_single_examples_have_curves_of_their_own():
    curves = {
        "fpr": [0.1, 1.0],
        "members": 9,
        "others": 9,
        "tpr": {"unlearned": [0.5, 1.0]},
        "auc": {"unlearned": 0.75},
    }
    made = report()
    page = html.render([made.model_copy(update={"figures": {**made.figures, "attacks": {"LiRA": curves}}})])
    assert "Attacks on single examples" in page and "LiRA attack: true-positive rate" in page
    assert "Attacks on single examples" not in html.render([made])
