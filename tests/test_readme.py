"""README.md and docs/: every link, flag and file is there, every command runs, tables are true."""

import contextlib
import csv
import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

import data
import demo
import fid
import generate
import support.checkpoints
import support.features
from tests.conftest import ROOT, code_lines, make_pictures, tool
from tests.stand_ins import random_classifier, random_images
from training.flags import hyperparameters
from training.start import layer_table

quick_start, record_results = tool("quick_start"), tool("record_results")
record_curves = tool("record_curves")
benchmark = tool("benchmarks/scripts")
read_curves = tool("benchmarks/quality").read_curves
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
TEXT = "\n".join(PAGES.values())
SCRIPTS = support.checkpoints.SCRIPTS
TINY = "--max_steps 2 --batch_size 10 --z_dim 8 --ngf 4 --ndf 4 --eval_samples 20"
TOOLS = ("tools/", "benchmarks/")
LAUNCH = ("--standalone", "--nproc_per_node=2")
# What is added to a command so that it is over in a second.
BUDGET = {
    **dict.fromkeys([f"{script}.py" for script in SCRIPTS], TINY),
    "fid.py": "--num_images 60",
    "inception_score.py": "--num_images 60",
    "training/classifier.py": "--epochs 1 --save_path classifier.pt",
    "demo.py": "--port 0",
    "docs/toy.py": "--steps 2",
}


@cache
def help_of(script: str) -> str:
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        module.main(["--help"])
    return printed.getvalue()


def flags_of(script: str) -> str:
    """A text that names the script's flags: its help, or a tool's source, which is quicker."""
    return (ROOT / script).read_text() if script.startswith(TOOLS) else help_of(script)


def commands() -> list[list[str]]:
    """Every command in a code block or between backticks that runs one of our scripts."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
    lines += [" ".join(span.split()) for span in spans]
    found = []
    for words in (shlex.split(part, comments=True) for line in lines for part in line.split("&&")):
        if words[:1] == ["torchrun"]:  # what it starts, once: tests/test_parallel.py starts two
            words = ["python", *(word for word in words[1:] if word not in LAUNCH)]
        if words[:2] == ["python", "-m"] and words[2].startswith("training."):
            words = ["python", words[2].replace(".", "/") + ".py", *words[3:]]
        if words[:1] == ["python"] and words[1:] and words[1].endswith(".py"):
            found.append(words)
    return found


OURS = sorted({shlex.join(w[1:]) for w in commands() if not w[1].startswith(TOOLS)})


def kind(line: str) -> tuple[str, ...]:
    """Return what two commands share that do the same: a training command's data, or all flags."""
    script, *argv = shlex.split(line)
    if script.removesuffix(".py") in SCRIPTS:
        at = argv.index("--dataset") + 1 if "--dataset" in argv else None
        data = "fashion_mnist" if at is None else argv[at]
        return script, data, *(x for x in argv if x in ("--classes", "--resume", "--help"))
    return script, *argv[:1], *sorted(word for word in argv if word.startswith("--"))


def one_of_a_kind() -> list[Any]:
    """Return all commands. The default tests run one of each kind, the slow tests the others."""
    slow, seen, params = pytest.mark.slow, set(), []
    for line in OURS:
        params.append(pytest.param(line, marks=slow if kind(line) in seen else (), id=line))
        seen.add(kind(line))
    return params


def test_every_link_leads_somewhere() -> None:
    for page, text in PAGES.items():
        for name, target in re.findall(r"\[([^\]]*)\]\(([^)]+)\)", text):
            if target.startswith("http"):
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            assert path.exists(), (page.name, target)
            if line := re.fullmatch(r"L(\d+)", anchor):
                here = path.read_text().splitlines()[int(line[1]) - 1]
                assert re.match(rf"\s*(def|class) {name.strip('`')}\b", here), (page.name, target)
            elif anchor:
                titles = re.findall(r"^#+ (.*)", PAGES[path], re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", title).lower() for title in titles]
                assert anchor in [title.replace(" ", "-") for title in anchors], target


def test_every_command_has_its_script_and_flags() -> None:
    found = commands()
    assert len(found) > 20
    for words in found:
        script = words[1]
        assert (ROOT / script).is_file(), script
        for word in words[2:]:
            if word.startswith("--"):
                assert re.search(rf"{word.partition('=')[0]}\b", flags_of(script)), (script, word)


def test_every_flag_in_the_text_is_one_of_a_script() -> None:
    scripts = {words[1] for words in commands()} | {"tools/record_results.py"}
    known = (
        " --logdir --index-url --standalone --nproc_per_node --nnodes --node_rank --rdzv_endpoint "
    )
    known += "".join(map(flags_of, sorted(scripts)))
    patches = [path.read_text() for path in (ROOT / "docs/answers").iterdir()]
    known += " ".join(re.findall(r'^\+.*add_argument\("(--\w+)"', "\n".join(patches), re.MULTILINE))
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", TEXT)):
        assert re.search(rf"{flag}\b", known), flag


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands find what they name: runs, pictures, statistics."""
    stage = tmp_path_factory.mktemp("stage")
    for name in set(re.findall(r"\bpictures\b|\w+_folder\b|\bCIFAR\b|\bemoji\b", TEXT)):
        make_pictures(stage / name)
    for name in ("pretrained", "configs"):
        shutil.copytree(ROOT / name, stage / name)
    blocks = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs/exercises.md"], re.DOTALL)
    (solution,) = [block for block in blocks if "def discriminator_loss" in block]
    (stage / "my_loss.py").write_text(solution)
    with pytest.MonkeyPatch.context() as patch:
        small_world(patch, stage)
        main = importlib.import_module("cdcgan").main
        main([*TINY.split(), "--max_steps", "20", "--name", "RUN", "--device", "cpu"])
        samples = ["--num_images", "150", "--save_path", "t.npz"]
        importlib.import_module("generate").main(["--load_path", "runs/RUN", *samples])
    for name in {*re.findall(r"runs/([A-Z]+)\b", TEXT)} - {"RUN"}:
        shutil.copytree(stage / "runs/RUN", stage / "runs" / name)
    return stage


def small_world(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Stand in `folder`; the data sets have 200 images, and nothing is fetched."""

    def arrays(channels: int, size: int) -> list[object]:
        images = random_images(200, channels, size).numpy()
        labels = (torch.arange(200) % 10).numpy()
        return [images, labels, images[:100], labels[:100]]

    patch.chdir(folder)
    patch.setattr(data, "load_idx", lambda name, data_dir, fetch=True: arrays(1, 28))
    patch.setattr(data, "load_cifar10", lambda data_dir, fetch=True: arrays(3, 32))


@pytest.mark.parametrize(
    "patch", sorted((ROOT / "docs/answers").glob("*.patch")), ids=lambda path: path.stem
)
@pytest.mark.slow
def test_every_answer_applies_and_trains(patch: Path, tmp_path: Path, flags: list[str]) -> None:
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    for name in ("support", "training"):
        shutil.copytree(ROOT / name, tmp_path / name)
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    script, *_ = re.findall(r"^\+\+\+ b/(.*)", patch.read_text(), re.MULTILINE)
    command = [sys.executable, script, *flags, "--max_steps", "3", "--name", "run"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "run/last.pt").is_file()


def test_every_patch_is_used_by_a_page() -> None:
    for patch in (ROOT / "docs/answers").iterdir():
        assert f"answers/{patch.name}" in TEXT, patch.name


def test_the_answers_code_runs(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_world(monkeypatch, stage)
    monkeypatch.syspath_prepend(str(ROOT))
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block.replace("10_000", "50").replace('["critic"]', '["generator"]'), {})


def test_every_training_command_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for script, *argv in map(shlex.split, OURS):
        if script.removesuffix(".py") in SCRIPTS and not {"--resume", "--help"} & set(argv):
            importlib.import_module(script.removesuffix(".py")).parse_args(argv)


@pytest.mark.parametrize("line", one_of_a_kind())
def test_every_command_runs(
    line: str, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_world(monkeypatch, stage)
    # Not Inception, whose features of these few pictures would take minutes.
    monkeypatch.setattr(
        "support.features.load_inception", lambda path=None: random_classifier(3, 32)
    )
    monkeypatch.setattr(demo.ThreadedWSGIServer, "serve_forever", lambda server: None)
    script, *argv = shlex.split(line)
    argv += BUDGET.get(script, "").split()
    if BUDGET.get(script) == TINY and "--resume" not in argv:
        argv += ["--out_dir", str(tmp_path)]  # two runs of one second would have the same name
    if "--resume" in argv:
        argv = [*argv[: argv.index("--max_steps")], "--max_steps", "22"]
    if BUDGET.get(script) == TINY and "folder" in argv:
        argv += ["--features", "none"]  # not a classifier of images that large
    if "--gif" in argv:
        argv += ["--grid_size", "1"]
    if script == "generate.py" and "--num_images" in argv:
        argv += ["--num_images", "20"]
    monkeypatch.setattr("sys.argv", [script, *argv])
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    if "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            main()
    else:
        main()


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"@@\w*@@", TEXT)


def test_the_flags_of_the_reference_are_the_parsers() -> None:
    assert tool("flags_table").tables() in PAGES[ROOT / "docs/reference.md"]


def result_tables() -> tuple[str, str]:
    real = json.loads(record_results.REAL_IMAGES.read_text())
    return record_results.tables(record_results.recorded(), real)


def test_the_results_table_is_what_was_recorded() -> None:
    for table in result_tables():
        assert table in PAGES[ROOT / "docs/results.md"]


def test_the_row_of_real_images_is_that_of_the_course() -> None:
    real = json.loads(record_results.REAL_IMAGES.read_text())
    ((_, *shown),) = [row for row in rows_of("course.md", "| fault |") if row[0].startswith("none")]
    fcd, score, in_class, _, precision, recall, _, coverage = (cell.rstrip(" %") for cell in shown)
    assert float(in_class) == pytest.approx(100 * real["class_share"], abs=0.05)
    names = ("fcd", "score", "precision", "recall", "coverage")
    compare([fcd, score, precision, recall, coverage], [real[name] for name in names])


def test_the_table_of_times_is_what_was_measured() -> None:
    with (ROOT / "docs/times.csv").open() as file:
        rows = list(csv.reader(file))
    sizes = [(script, str(size)) for script in SCRIPTS for size in benchmark.SIZES]
    assert [(script, size) for script, size, _, _ in rows] == sizes
    assert benchmark.table(rows) in PAGES[ROOT / "docs/results.md"]


def test_the_reference_is_short() -> None:
    assert len(PAGES[ROOT / "docs/reference.md"].splitlines()) <= 250


def test_the_accuracies_of_the_classifiers_are_those_of_the_files() -> None:
    names = {"MNIST": "mnist", "Fashion-MNIST": "fashion_mnist", "CIFAR-10 (JPEG)": "cifar10"}
    rows = rows_of("reference.md", "| classifier | trained by |")
    shown = {name: accuracy for name, _, accuracy in rows}
    folder = ROOT / "pretrained"
    files = {
        name: torch.load(folder / f"classifier-{file}.pt", weights_only=True)
        for name, file in names.items()
    }
    assert shown == {name: f"{100 * file['accuracy']:.2f} %" for name, file in files.items()}


def results_rows() -> dict[tuple[str, str], dict[str, str]]:
    """Return cells of both tables by script and data set, then by column, without other flags."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for table in result_tables():
        head, _, *lines = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        )
        for line in lines:
            if line[-1] == "":
                row = dict(zip(head, line, strict=True))
                cells.setdefault((line[0].strip("`"), line[1]), {}).update(row)
    return cells


def test_all_results_come_from_the_current_code_and_flags() -> None:
    """If a change of form trains the same weights, run tools/record_results.py --same."""
    for run in record_results.recorded():
        assert run["fingerprint"] == record_results.fingerprint_of(run["command"]), run["command"]


def test_all_curves_come_from_the_current_code_and_flags() -> None:
    runs = {run["name"]: run for run in record_results.recorded(record_curves.CURVES)}
    assert list(runs) == list(record_curves.RUNS)
    for name, run in runs.items():
        command, args = record_curves.RUNS[name].command, dict(run["args"])
        if "gamma" in args:  # a flag of r3gan.patch
            flag = f" --gamma {args.pop('gamma'):g}"
            assert flag in command
            command = command.replace(flag, "")
        wanted = record_results.hyperparameters_of(f"python {command} --dataset fashion_mnist")
        assert args == {key: wanted[key] for key in args}, name
        assert run["patch"] == record_curves.RUNS[name].patch
        assert len(run["fcd_per_epoch"]) == args["epochs"], name
        assert run["fingerprint"] == record_curves.fingerprint_of(name, run["args"]), name


def test_a_fingerprint_sees_code_and_hyperparameters_but_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text('"""About."""\nx = f"{1:>3}"  # why\n\ndef parse_args():\n    return 1\n')
    code = record_results.code_of(path)
    path.write_text('"""More."""\n\nx = f"{1:>3}"\n\n\ndef parse_args():\n    return 2\n')
    assert record_results.code_of(path) == code
    path.write_text('x = f"{1:>4}"\n')
    assert record_results.code_of(path) != code
    one, same, other = (
        record_results.fingerprint_of(f"python dcgan.py --dataset fashion_mnist {flags}")
        for flags in ("", "--name x --out_dir y", "--lr_g 1e-4")
    )
    assert one == same != other
    path.write_text("for i in x:\n    a()\n    b()\n")
    inside = record_results.code_of(path)
    path.write_text("for i in x:\n    a()\nb()\n")
    assert record_results.code_of(path) != inside


def test_the_readmes_figures_are_recorded() -> None:
    """FCD and minutes of docs/results.jsonl, lines of code, and the FCD of training images."""
    text = PAGES[ROOT / "README.md"]
    assert "| lines of code | FCD | CPU minutes |\n" in text
    recorded = results_rows()
    *rows, plain = rows_of("README.md", "| script | paper |")
    points = read_curves(ROOT / "docs/quality.csv")["plain recipe"]
    assert plain[-2:] == [f"{min(fcd for _, fcd in points):.3f}", f"{points[-1][0]:.0f}"]
    assert [row[0] for row in rows] == [f"[{name}.py]({name}.py)" for name in SCRIPTS]
    for name, row in zip(SCRIPTS, rows, strict=True):
        run = recorded[f"{name}.py", "Fashion-MNIST"]
        assert row[3:] == [str(code_lines(ROOT / f"{name}.py")), run["FCD"], run["CPU minutes"]]
    command, minutes = re.findall(r"^(python cdcgan.*\S) +# trains: (\d+) minutes", text, re.M)[0]
    (run,) = (run for run in record_results.recorded() if run["command"] == command)
    assert minutes == f"{run['cpu_minutes']:.0f}"
    real = re.findall(r"training images have FCD (\S+)\.\s", text)
    assert real == [rows_of("course.md", "| fault | FCD |")[0][1]]


def test_the_run_folder_of_the_readme_is_a_runs_folder(straight: tuple[list[str], Path]) -> None:
    (tree,) = re.findall(r"^runs/\S+/\n((?:[├└].*\n)+)", PAGES[ROOT / "README.md"], re.MULTILINE)
    shown = set(re.findall(r"^[├└]── ([\w.]+)", tree, re.MULTILINE))
    left = {re.sub(r"(events\.).*", r"\1", path.name) for path in straight[1].glob("[!.]*")}
    assert shown == left


def test_the_files_that_the_readme_names_are_there() -> None:
    text = PAGES[ROOT / "README.md"]
    named = set(re.findall(r"`((?:training|support|tools|\.ci|pretrained|docs)/[\w./-]*)`", text))
    named |= set(re.findall(r"`(\w+\.py)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    places = {"DATASETS": data, "SCRIPTS": support.checkpoints}
    assert set(re.findall(r"`([A-Z]{5,})` in", text)) == places.keys()
    assert [name for name, module in places.items() if not hasattr(module, name)] == []


def test_the_map_of_the_tests_has_one_row_per_file() -> None:
    text = (ROOT / "tests/README.md").read_text()
    rows = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \| \S", text, re.MULTILINE)
    assert all(name == target for name, target in rows)
    files = sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))
    assert sorted(name for name, _ in rows) == files
    others = {path.name for path in (ROOT / "tests").glob("*.*")} - {*files, "README.md"}
    assert {name for name in others if name not in text} <= {"__init__.py"}


def test_the_citations_agree() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    entry = dict(re.findall(r'^[ -]*([\w-]+): "?(.+?)"?$', text, re.MULTILINE))
    bibtex = dict(re.findall(r"(\w+) = \{+(.*?)\}", PAGES[ROOT / "README.md"]))
    (year, authors) = re.findall(r"\(c\) (\d+) (.*)", (ROOT / "LICENSE").read_text())[0]
    assert entry["cff-version"] == "1.2.0" and entry["license"] == "MIT"
    assert entry["name"] == authors and bibtex["author"].lower() == authors
    assert entry["title"] == bibtex["title"] and bibtex["year"] == year
    assert f"# {entry['title']}\n" in PAGES[ROOT / "README.md"]


def test_the_workflow_runs_what_ci_runs() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.search(r"^      - run: \.ci/run$", text, re.MULTILINE)
    assert re.search(r"^    timeout-minutes: \d+$", text, re.MULTILINE)
    mypy = re.search(r'^python_version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert mypy and f'python-version: "{mypy[1]}"' in text


QUICK_START = [
    "pip install -r requirements.txt",
    "python generate.py",
    "python cdcgan.py --dataset fashion_mnist --epochs 50",
    "pytest",
]


def test_ci_runs_the_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    quick_start.main(["--max_steps", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{x} --max_steps 20" if "--epochs" in x else x for x in QUICK_START]
    ci = (ROOT / ".ci/run").read_text()
    assert "tools/quick_start.py" in ci
    assert not {line.strip() for line in ci.splitlines()} & set(QUICK_START)  # no second copy


@pytest.mark.parametrize(
    "text, found",
    [
        ("```sh\npython a.py --epochs 1\n```\n", "0 found"),  # not under the heading
        ("## Quick start\n## Next\n```sh\npython a.py --epochs 1\n```\n", "0 found"),
        ("## Quick start\n" + 2 * "```sh\npython a.py --epochs 1\n```\n", "2 found"),
        ("## Quick start\n```sh\npytest  # a run of --epochs 1\n```\n", "--epochs is .* 0 found"),
        ("## Quick start\n```sh\n" + 2 * "python a.py --epochs 1\n" + "```\n", "--epochs is .* 2"),
    ],
)
def test_a_quick_start_that_ci_cannot_run_is_refused(
    text: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        quick_start.main(["--max_steps", "20", "--readme", str(tmp_path / "README.md")])
    printed = capsys.readouterr()
    assert re.search(found, printed.err) and not printed.out


def test_the_readme_is_short_and_its_first_screen_is_complete() -> None:
    text = PAGES[ROOT / "README.md"]
    lines = text.splitlines()
    assert len(lines) <= 180 and len(text.split()) <= 1400
    first = "\n".join(lines[:40])
    wanted = [*QUICK_START, *(f"[{script}.py]({script}.py)" for script in SCRIPTS), "![", "FCD"]
    assert [words for words in wanted if words not in first] == []


def curve(script: str, argv: str = "", patch: str = "", epochs: int | None = None) -> list[float]:
    """Return FCD after each epoch of the recorded run with these flags and this change of code.

    The planned number of epochs counts if the learning rates decay, and if `epochs` is given.
    """
    args = hyperparameters(importlib.import_module(script).parse_args(shlex.split(argv)))
    planned = epochs or (args["epochs"] if args["lr_decay"] else None)
    for run in [*record_results.recorded(record_curves.CURVES), *record_results.recorded()]:
        theirs = run.get("args") or record_results.hyperparameters_of(run["command"])
        same = all(args.get(name, v) == v for name, v in theirs.items() if name != "epochs")
        edited = "name" in run and record_curves.RUNS[run["name"]].edits
        change = (run["script"], run.get("patch", ""))
        if (
            change == (script, patch)
            and not edited
            and same
            and planned in (None, theirs["epochs"])
        ):
            return run["fcd_per_epoch"]
    raise LookupError(f"no run of {script}.py {argv} {patch} is recorded")


def recorded_curve(name: str) -> dict[str, Any]:
    """Return the line of curves.jsonl for the run `name` of tools/record_curves.py."""
    (run,) = [r for r in record_results.recorded(record_curves.CURVES) if r["name"] == name]
    return run


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of the table whose first row begins like `title`."""
    (text,) = [text for path, text in PAGES.items() if path.name == page]
    table = text.partition(f"\n{title}")[2].partition("\n\n")[0]
    assert table, (page, title)
    lines = table.splitlines()[2:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


def failures() -> dict[str, str]:
    """Return the sections of docs/failures.md by title, except those without a command."""
    sections = PAGES[ROOT / "docs/failures.md"].split("\n## ")[1:]
    found = dict(section.split("\n", 1) for section in sections)
    del found["Mode collapse"], found["Healthy runs that look broken"]
    return found


def test_each_failure_has_its_parts_in_order() -> None:
    """Command, picture (or table), cause, the cure's command, the cure's number."""
    assert len(PAGES[ROOT / "docs/failures.md"].splitlines()) <= 180
    command, picture = r"\n```sh\n[^`]+```\n\n", r"(!\[.+?\]\(.+?\)|(\|.*\n)+)\s+"
    cause, cure = r"\*\*Cause\.\*\* [^*]+", r"\*\*Cure\.\*\* .*?`(python|git) [^`]+`.*?FCD .*"
    assert len(failures()) >= 7
    for title, text in failures().items():
        assert re.fullmatch(command + picture + cause + cure, text, re.DOTALL), title


def test_the_failures_are_as_recorded() -> None:
    """Each number is the FCD of the section's first command or of its cure's command."""
    said = r"FCD after (\d+) epochs: (?:(\S+) with the failure, )?(\S+) with the cure\."
    told = {title: re.search(said, " ".join(text.split())) for title, text in failures().items()}
    assert {title for title, numbers in told.items() if not numbers} == {"FID of too few samples"}
    for title, numbers in told.items():
        text = " ".join(failures()[title].split())
        failure, _, cure = text.partition("**Cure.**")
        both = [re.findall(r"python (\w+)\.py ([^`]*)", part) for part in (failure, cure)]
        (script, argv), (mended, mended_argv) = both[0][0], (both[1] or both[0])[0]
        patch = "".join(re.findall(r"git apply docs/answers/(\S+)\.patch", failure))
        assert mended == script and not (patch and f"-R docs/answers/{patch}.patch" not in cure)
        if numbers:
            at = int(numbers[1]) - 1
            assert f"--epochs {numbers[1]}" in argv and f"--epochs {numbers[1]}" in mended_argv
            compare([numbers[3]], [curve(script, mended_argv)[at]])
            if numbers[2]:
                compare([numbers[2]], [curve(script, argv, patch)[at]])


def test_the_other_numbers_of_the_failures_are_as_recorded() -> None:
    page = " ".join(PAGES[ROOT / "docs/failures.md"].split())
    healthy = curve("vanilla_gan")
    strong_d = curve("vanilla_gan", failures()["D wins"].split("```")[1].split(".py")[1])
    fast_g = curve("vanilla_gan", failures()["G too fast"].split("```")[1].split(".py")[1])
    noise, plain = (
        curve("vanilla_gan", argv) for argv in ("--label_noise 0.05", "--label_smoothing 0")
    )
    for sentence in (
        f"FCD is {strong_d[4]:.1f} instead of {healthy[0]:.1f}.",
        f"FCD stays between {min(fast_g):.1f} and {max(fast_g):.1f}.",
        f"FCD falls from {healthy[2]:.2f} after epoch 3 to {healthy[5]:.2f} after epoch 6.",
        f"FCD is {noise[5]:.2f} with `--label_noise 0.05` and {plain[5]:.2f} with `--label_smooth",
    ):
        assert sentence in page
    d_wins = "--d_steps 5 --lr_d 1e-3 --lr_g 5e-5 --dropout 0 --label_smoothing 0"
    for flags, shown in rows_of("failures.md", "| added flags |"):
        added = flags.strip("`").removeprefix("none")
        compare([shown], [curve("vanilla_gan", f"{d_wins} {added}")[5]])


def test_the_exercises_are_as_recorded() -> None:
    strong = "--d_steps 5 --lr_d 1e-3 --lr_g 5e-5 --dropout 0 --label_smoothing 0"
    for (*_, first, second), patch in zip(
        rows_of("exercises.md", "| loss of G |"), ("", "saturating-loss"), strict=True
    ):
        compare([first, second], curve("vanilla_gan", strong, patch, epochs=2))
    for (_, first, second, *shares), patch in zip(
        rows_of("exercises.md", "| D | FCD after 1 epoch |"), ("", "concatenation"), strict=True
    ):
        compare([first, second], curve("cdcgan", "--epochs 2", patch))
        compare(shares, recorded_curve(patch or "projection")["class_share_per_epoch"])
    for row, patch in zip(
        rows_of("exercises.md", "| change | FCD |"), ("no_detach", "early_zero_grad"), strict=True
    ):
        compare(row[1:], recorded_curve(patch)["fcd_per_epoch"])
    clipped = "--n_critic 5 --lr_g 5e-5 --lr_d 5e-5 --ema 0.999 --weight_clip 0.01"
    penalty = "--n_critic 5 --lr_g 4e-4 --lr_d 4e-4 --ema 0.999"
    for row, argv in zip(
        rows_of("exercises.md", "| constraint |"), (clipped, penalty), strict=True
    ):
        compare(row[2:], curve("wgan_gp", argv)[:1])


def test_the_modern_baseline_is_as_recorded() -> None:
    """Distances of the first four rows fall in order, and both penalties help."""
    command = "python dcgan.py --dataset fashion_mnist --epochs 30"
    dcgan = {
        run["seed"]: run
        for run in record_results.recorded()
        if run["command"] in (command, f"{command} --seed 1")
    }
    gammas = ("r3gan", "r3gan_gamma_0.2", "r3gan_gamma_0.05", "r3gan_no_penalty")
    patched = {name: recorded_curve(name) for name in (*gammas, "r3gan_r1_only", "r3gan_seed_1")}
    first, *middle, last = patched.values()
    runs = [dcgan[0], first, *middle, dcgan[1], last]
    for row, run in zip(rows_of("exercises.md", "| run | $\\gamma$ |"), runs, strict=True):
        *gamma, seed = row[1:3]
        args = run.get("args", run)  # of a curve or of a result
        assert gamma == [f"{args['gamma']:g}" if "gamma" in args else ""]
        assert seed == str(args["seed"])
        curve = run["fcd_per_epoch"]
        during = [curve[len(curve) * part // 3 - 1] for part in (1, 2)]
        compare(row[3:], [*during, *(run[m] for m in ("fcd", "fcd_other", "recall", "coverage"))])
    page = " ".join(PAGES[ROOT / "docs/exercises.md"].split())
    pairs = (dcgan[0], first), (dcgan[1], last)
    one, two = (f"{ours['fcd'] / theirs['fcd']:.1f}" for theirs, ours in pairs)
    three, four = (f"{ours['fcd_other'] / theirs['fcd_other']:.1f}" for theirs, ours in pairs)
    assert (
        f"is {one} and {two} times that of `dcgan.py` (seeds 0 and 1), and {three} and {four}"
        in page
    )
    for metric in ("fcd", "fcd_other"):
        values = [patched[name][metric] for name in gammas]
        assert values == sorted(values) and values[0] < patched["r3gan_r1_only"][metric]
    lowest = patched["r3gan_no_penalty"]["fcd_per_epoch"]
    assert lowest.index(min(lowest)) == 4 and f"5 epochs ({min(lowest):.2f})" in page
    assert lowest[4:] == sorted(lowest[4:])


def test_the_settings_for_emoji_are_as_recorded() -> None:
    with open(ROOT / "docs/emoji.csv", newline="") as file:
        recorded = list(csv.DictReader(file))
    metrics = ("fcd", "fcd_other", "precision", "recall", "coverage")
    columns = (*metrics, "d_accuracy_real", "d_accuracy_fake")
    for (name, *cells), row in zip(rows_of("results.md", "| setting |"), recorded, strict=True):
        assert name == row["setting"]
        compare(cells, [float(row[column]) for column in columns])


def test_the_distance_of_few_samples_is_as_recorded() -> None:
    with open(ROOT / "docs/few_samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        number: [float(row["fcd"]) for row in rows if row["samples"] == number]
        for number in dict.fromkeys(row["samples"] for row in rows)
    }
    assert all(len(values) == 5 for values in found.values())
    heading = f"| samples | {' | '.join(f'{int(number):,}' for number in found)} |"
    ((_, *cells),) = rows_of("failures.md", heading)
    assert cells == [f"{mean(v):.3f} ± {stdev(v):.3f}" for v in found.values()]
    few, enough = (f"{mean(found[number]):.3f}" for number in ("100", "10000"))
    failures = " ".join(PAGES[ROOT / "docs/failures.md"].split())
    exercises = " ".join(PAGES[ROOT / "docs/exercises.md"].split())
    assert f"FCD is {enough} instead of {few}." in failures
    assert f"falls from {few} with 100 samples to {enough} with 10,000 samples" in exercises


def test_the_log_is_as_recorded() -> None:
    """Each section below the table compares two recorded runs on Fashion-MNIST."""
    runs_of = re.compile(
        r"- Runs: `(\w+)\.py` on Fashion-MNIST, (\d+) epochs?(?:, both with (.*?))?\. -"
    )
    fcd_of = re.compile(r"- FCD: ([\d.]+) (with .*?), ([\d.]+) (with.*?)\. - ")
    _, first, *trials = PAGES[ROOT / "docs/log.md"].split("\n## ")
    assert first.startswith("Trials on held-out training images") and len(trials) >= 4
    for trial in trials:
        text = " ".join(trial.split())
        runs, fcd = runs_of.search(text), fcd_of.search(text)
        assert runs and fcd, text
        script, epochs, both = runs.groups("")
        found = []
        for run in (fcd[2], fcd[4]):
            flags = re.findall(r"`(--.*?)`", f"{both} {run}")
            patch = "".join(re.findall(r"answers/(\S+)\.patch", run))
            planned = f"--epochs {epochs}" if script == "cdcgan" else ""
            found.append(curve(script, " ".join([planned, *flags]), patch)[int(epochs) - 1])
        compare([fcd[1], fcd[3]], found)


def test_the_table_of_trials_is_as_recorded() -> None:
    """One row per line of trials.jsonl, and what the page says about the differences."""
    runs = record_results.recorded(ROOT / "docs/trials.jsonl")
    rows = rows_of("log.md", "| script | change | data |")
    assert len(rows) == len(runs) <= 20
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for row, run in zip(rows, runs, strict=True):
        assert row[:3] == [f"`{run['script']}`", run["change"], run["data"]]
        held_out = (
            "--features none" in run["command"] and "data_dir runs/held_out" in run["command"]
        )
        assert held_out != run["data"].endswith("test images")
        own, other = run["metrics"]["own"], run["metrics"]["other"]
        values = [own["fcd"], own["recall"], own["coverage"], other["fcd"]]
        compare(row[3:], [run["epochs"], run["cpu_minutes"], *values])
        change = run["change"].removesuffix(f", seed {run['seed']}")
        found.setdefault((run["script"], change, run["data"], run["seed"]), values)

    def ratios(
        change: str,
        script: str = "cdcgan.py",
        data: str = "Fashion-MNIST",
        seed: int = 0,
        against: str = "none",
    ) -> list[float]:
        """Return FCD, recall, coverage and the other FCD, each divided by that of `against`."""
        changed, default = found[script, change, data, seed], found[script, against, data, seed]
        return [a / b for a, b in zip(changed, default, strict=True)]

    for seed in (0, 1):
        fcd, recall, coverage, other = ratios("`dense` only", seed=seed)
        assert 0.9 < fcd < 1.1 and 0.9 < other < 1.1
        assert recall == pytest.approx(1, abs=0.01) and coverage == pytest.approx(1, abs=0.01)
    (long,) = found["cdcgan.py", "`dense` only", "Fashion-MNIST, test images", 0][:1]
    assert f"FCD is {long:.3f}. With both kinds" in " ".join(PAGES[ROOT / "docs/log.md"].split())
    fcd, recall, coverage, _ = ratios("`local`, and a linear layer on the map")
    assert fcd < 0.9 and recall < 0.95 and coverage < 0.98
    fcd, _, _, other = ratios("`dense` only, `--label_smoothing 0`", against="`dense` only")
    assert round(100 * fcd) == 123 and 0.94 < other < 1
    fcd, recall, _, other = ratios("`dense` only, `--depth 1`", against="`dense` only")
    default, deep = (
        found["cdcgan.py", f"`dense` only{flag}", "Fashion-MNIST", 0][1]
        for flag in ("", ", `--depth 1`")
    )
    assert fcd < 0.6 and 0.95 < other < 1 and round(100 * (default - deep)) == 4
    fcd, _, _, other = ratios("`--lr_decay 0.5`", "wgan_gp.py")
    assert fcd < 1 < other
    none = found["cdcgan.py", "none", "CIFAR-10 (JPEG)", 0]
    one, two = (found["cdcgan.py", "`--z_dim 64`", "CIFAR-10 (JPEG)", seed] for seed in (0, 1))
    assert one[0] < none[0] < two[0] and one[3] < none[3] < two[3]
    assert one[1] > none[1] > two[1] and one[2] > none[2] > two[2]
    fcd, recall, _, other = ratios("`--hflip`", data="CIFAR-10 (JPEG)")
    assert 0.95 < fcd < 1.05 and 0.95 < other < 1.05 and recall < 0.9
    fcd, _, _, other = ratios("`--lr_g 4e-4 --lr_d 8e-4`", data="MNIST")
    assert fcd < 1 < other
    fcd, _, _, other = ratios("`--z_dim 16`", "vanilla_gan.py")
    assert 0.85 < fcd < 0.95 and 0.98 < other < 1
    coverages = {
        run["change"]: run["metrics"]["other"]["coverage"]
        for run in runs
        if run["script"] == "vanilla_gan.py"
    }
    assert coverages["`--z_dim 16`"] < 0.95 * coverages["none"]


def test_the_papers_settings_are_as_recorded() -> None:
    rows = rows_of("results.md", "| command | epochs | FCD | FCD, defaults |")
    assert len(rows) == 3
    for command, epochs, theirs, ours, *_ in rows:
        script, *flags = shlex.split(command.strip("`"))[1:]
        name, last = script.removesuffix(".py"), int(epochs) - 1
        paper = curve(name, shlex.join(flags), epochs=int(epochs) if name == "dcgan" else None)
        compare([theirs, ours], [paper[last], curve(name)[last]])


def test_the_distance_over_the_epochs_and_the_plain_recipe_are_as_recorded() -> None:
    (heading,) = re.findall(r"^\| epoch \| (.*) \|$", PAGES[ROOT / "docs/results.md"], re.MULTILINE)
    ((_, *shown),) = rows_of("results.md", "| epoch |")
    values = curve("cdcgan")
    compare(shown, [values[int(epoch) - 1] for epoch in heading.split(" | ")])
    later = f"stays between {min(values[39:])} and {max(values[39:])}."
    assert later in " ".join(PAGES[ROOT / "docs/results.md"].split())
    curves = read_curves(ROOT / "docs/quality.csv")
    plain, ours = curves["plain recipe"], curves["cdcgan.py"]
    lowest = min(fcd for _, fcd in plain)
    epochs = next(epoch for epoch, (_, fcd) in enumerate(ours, start=1) if fcd < lowest)
    page = " ".join(PAGES[ROOT / "docs/results.md"].split())
    assert f"in {plain[-1][0]:.0f} minutes of training, without evaluation, is {lowest}." in page
    assert f"has a lower FCD after {epochs} epochs" in page


def test_the_courses_curves_are_as_recorded() -> None:
    def flags(cell: str) -> str:
        return " ".join(re.findall(r"`(.*?)`", cell))

    for cell, shown in rows_of("course.md", "| `vanilla_gan.py` with |"):
        compare([shown], [curve("vanilla_gan", flags(cell))[5]])
    for cell, *several in rows_of("course.md", "| flags of `wgan_gp.py` |"):
        compare(several, curve("wgan_gp", flags(cell))[:3])
    for cell, shown in rows_of("course.md", "| run | FCD after 4 epochs |"):
        _, script, *argv = shlex.split(flags(cell))
        compare([shown], [curve(script.removesuffix(".py"), shlex.join(argv))[3]])


def test_the_courses_results_are_as_recorded() -> None:
    """Each cell under a heading of the results table is that table's cell for Fashion-MNIST."""
    recorded = results_rows()
    course = PAGES[ROOT / "docs/course.md"]
    tables = re.findall(r"^(\| script \| epochs .*\n)\|.*\n((?:\|.*\n)+)", course, re.MULTILINE)
    assert len(tables) == 3
    for heading, body in tables:
        names = [name.strip() for name in heading.split("|")[1:-1]]
        for row in body.splitlines():
            shown = [cell.strip() for cell in row.split("|")[1:-1]]
            run = recorded[shown[0].strip("`"), "Fashion-MNIST"]
            assert shown[1:] == [run[name] for name in names[1:]]
    first, second = (
        recorded[f"{name}.py", "Fashion-MNIST"]["FCD, other"] for name in ("dcgan", "cdcgan")
    )
    assert f"of the default runs are {first} and {second} (" in " ".join(course.split())
    assert f"close to that of `dcgan.py` ({recorded['dcgan.py', 'Fashion-MNIST']['FCD']})" in course
    recall = recorded["vanilla_gan.py", "Fashion-MNIST"]["recall"].split()[0]
    assert f"Many samples look alike: recall is {recall} (section 5)" in course


def test_the_code_of_the_course_is_in_the_scripts() -> None:
    scripts = "".join((ROOT / f"{name}.py").read_text() for name in (*SCRIPTS, "fid"))
    blocks = re.findall(r"```py\n(.*?)```", PAGES[ROOT / "docs/course.md"], re.DOTALL)
    assert len(blocks) >= 6 and all(block in scripts for block in blocks)


def test_the_courses_layers_are_those_that_training_prints() -> None:
    dcgan = importlib.import_module("dcgan")
    args = dcgan.parse_args([])
    z, image = torch.zeros(1, args.z_dim), torch.zeros(1, 1, 28, 28)
    generator = dcgan.Generator(args.z_dim, args.ngf, 1, 28)
    discriminator = dcgan.Discriminator(args.ndf, 1, 28, args.norm, args.dropout)
    tables = layer_table(generator, z), layer_table(discriminator, image)
    course = PAGES[ROOT / "docs/course.md"]
    assert f"```text\n{tables[0]}\n{tables[1]}\n```" in course
    network = support.features.load_classifier(ROOT / "pretrained/classifier-fashion_mnist.pt")
    assert f"{100 * network.accuracy:.2f} % of the" in " ".join(course.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_results_in_the_docstrings_are_as_recorded(script: str) -> None:
    row = results_rows()[f"{script}.py", "Fashion-MNIST"]
    said = " ".join(
        help_of(f"{script}.py").partition("Result:")[2].partition("one core")[0].split()
    )
    seeds = f"{row['seeds']} seeds" if row["seeds"] != "1" else "seed 0"
    assert said == (
        f"FCD {row['FCD']} (fid.py, 10,000 samples, {seeds}) after {row['epochs']} epochs,"
        f" {row['CPU minutes']} minutes on"
    )


def compare(shown: list[str], found: list[float]) -> None:
    """Cells with as many digits as they like, those of epochs not trained empty."""
    shown = [cell for cell in shown if cell]
    digits = [len(cell.partition(".")[2]) for cell in shown]
    assert shown == [f"{value:.{n}f}" for value, n in zip(found, digits, strict=True)]


@pytest.mark.data
def test_what_the_metrics_see_is_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Two of the rows, measured anew; the last digit is left to other machines' rounding."""
    kept = ("none", "noise")
    tool("what_metrics_see").main(kept)
    found = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    shown = [r for r in rows_of("course.md", "| fault | FCD |") if r[0].startswith(kept)]
    assert len(shown) == len(found) == len(kept)
    for ours, theirs in zip(shown, found, strict=True):
        assert ours[0] == theirs[0].strip()
        numbers = [[float(cell.strip(" %")) for cell in row[1:]] for row in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.005), ours[0]


@pytest.mark.data
def test_what_the_pretrained_generator_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few samples, features of other data, a wider z: cells of three tables, measured anew."""
    pretrained = str(ROOT / "pretrained/cdcgan-fashion_mnist.pt")

    def answer(source: str, *argv: str) -> dict[str, float]:
        fid.main(["fashion_mnist:test", source, *argv, "--json"])
        return json.loads(capsys.readouterr().out)

    with open(ROOT / "docs/few_samples.csv", newline="") as file:
        few = {(row["samples"], row["seed"]): float(row["fcd"]) for row in csv.DictReader(file)}
    found = answer(pretrained, "--num_images", "100")
    assert found["fcd"] == pytest.approx(few["100", "0"], rel=0.01)
    default = "python cdcgan.py --dataset fashion_mnist"
    (run,) = (run for run in record_results.recorded() if run["command"] == default)
    other = answer(pretrained, "--dataset", "cifar10")["fcd"]
    assert run["fcd_other"] == pytest.approx(other, rel=0.02, abs=0.0005)
    wide = next(row for row in rows_of("exercises.md", "| factor of z |") if row[0] == "1.2")
    samples = str(tmp_path / "t.npz")
    argv = ["--num_images", "10000", "--z_scale", "1.2", "--save_path", samples]
    generate.main(["--load_path", pretrained, *argv])
    capsys.readouterr()
    found = answer(samples, "--prdc")
    names = ("fcd", "precision", "recall", "density", "coverage")
    shown = [float(cell) for cell in wide[1:]]
    assert shown == pytest.approx([found[name] for name in names], rel=0.02, abs=0.005)
