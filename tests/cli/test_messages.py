"""What a refused command tells to do is done here, and works: no message leads to another one."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from cli import main as entry
from echo_synth.runs.tensors import load_tensors, save_tensors
from echo_synth.training.loop import Engine

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(entry.app)
FILES = [f for folder in ("echo_synth", "cli", "nnunet_plugin") for f in sorted((ROOT / folder).rglob("*.py"))]
# Of other programs, or no option of a command but spelt like one.
FOREIGN = {"--val", "--debug", "--version", "--help"}


def _texts(file: Path) -> list[str]:
    """Everything in a file that may be printed: texts but those that document the code."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [n.value for n in constants if id(n) not in documents]


def test_commands_and_options_that_messages_name_exist() -> None:
    commands = COMMANDS.commands  # type: ignore[attr-defined]
    options = {o for c in commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    for file in FILES:
        for text in _texts(file):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
            assert named <= options | FOREIGN, f"{file}: {text}"
            for command in re.findall(r"'echosynth ([a-z]+-?[a-z]*)(?=[ '])", text):
                assert command in commands, f"{file}: {text}"


def _phrases(file: Path) -> list[str]:
    """Texts as `_texts`, and those that are put together, with {} for what is put in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    joined = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
    return _texts(file) + ["".join(v.value if isinstance(v, ast.Constant) else "{}" for v in n.values) for n in joined]  # type: ignore[misc]


def test_options_that_messages_give_a_command_are_its_own() -> None:
    commands = COMMANDS.commands  # type: ignore[attr-defined]
    found = 0
    for file in FILES:
        for text in _phrases(file):
            for command, rest in re.findall(r"echosynth ([a-z]+-?[a-z]*)((?: (?:--)?[\w{}/.-]+)*)", text):
                options = {o for p in commands[command].params for o in p.opts} if command in commands else set()
                named = set(re.findall(r"--[a-z-]+", rest))
                found += len(named)
                assert named <= options, f"{file}: {text}"
    assert found > 10


@dataclass(frozen=True)
class Scene:
    """Lines that lead there, the refused one, what it says, and lines that each follow the advice.

    A line that begins with "!" is what befalls files: "!remove F", "!cut F", "!spoil F" (NaN in its tensors), "!move F G",
    "!copy F G".
    """

    name: str
    before: tuple[str, ...]
    refused: str
    says: str
    advised: tuple[str, ...]


VAE = "train-vae --model gamma-vae-64 --dataset-id 501 --size light --images 4 --batch 4 --perceptual none --precision fp32 --device cpu"
GENERATE = "generate --model edm-l64 --nfe 1 --precision fp32"
LONGER = VAE.replace("--images 4", "--images 8")
EDM = "train --model edm-l64 --dataset-id 501 --size tiny --images 4 --batch 4 --copies 1 --precision fp32 --device cpu"
RAW = "{home}/nnunet/raw/Dataset501_PHANTOM"
JUDGE = f"bootstrap-eval --predictions {RAW}/labelsTs --references {RAW}/labelsTs --repeats 10"
STUDY = "study-solvers --model edm-l64 --nfe 1 --converged 11 --count 1"
SCENES = [
    Scene(
        "phantom",
        ("phantom ph --patients 1",),
        "phantom ph --patients 1",
        "pass --overwrite to replace it, or choose another folder",
        ("phantom ph --patients 1 --overwrite", "phantom other --patients 1"),
    ),
    Scene(
        "convert: id",
        (),
        "convert-camus {phantom} --dataset-id 501",
        "choose another --dataset-id",
        ("convert-camus {phantom} --dataset-id 502",),
    ),
    Scene(
        "convert: same name",
        (),
        "convert-camus {phantom} --dataset-id 501 --name PHANTOM",
        "choose another --dataset-id, or pass --overwrite to replace that dataset",
        ("convert-camus {phantom} --dataset-id 501 --name PHANTOM --overwrite",),
    ),
    Scene(
        "convert: classification",
        ("phantom taken --patients 1",),
        "convert-camus {phantom} --dataset-id 502 --classification taken --overwrite",
        "choose another --classification",
        ("convert-camus {phantom} --dataset-id 502 --classification free",),
    ),
    Scene(
        "maps",
        ("make-maps --dataset-id 501 --repeats 1 --workers 1 --out m",),
        "make-maps --dataset-id 501 --repeats 1 --workers 1 --out m",
        "pass --overwrite to replace it, or choose another --out",
        (
            "make-maps --dataset-id 501 --repeats 1 --workers 1 --out m --overwrite",
            "make-maps --dataset-id 501 --repeats 1 --workers 1 --out n",
        ),
    ),
    Scene(
        "no dataset",
        (),
        "make-maps --dataset-id 777 --repeats 1 --workers 1",
        "run 'echosynth convert-camus' first",
        ("convert-camus {phantom} --dataset-id 777", "make-maps --dataset-id 777 --repeats 1 --workers 1"),
    ),
    Scene(
        "generate: other settings",
        (f"{GENERATE} --count 2 --dataset-id 601",),
        f"{GENERATE} --count 2 --dataset-id 601 --seed 1",
        "repeat the old settings to complete it, or choose another --dataset-id",
        (f"{GENERATE} --count 2 --dataset-id 601", f"{GENERATE} --count 2 --dataset-id 602 --seed 1"),
    ),
    Scene(
        "generate: taken",
        (),
        f"{GENERATE} --count 2 --dataset-id 501",
        "choose another --dataset-id",
        (f"{GENERATE} --count 2 --dataset-id 601",),
    ),
    Scene(
        "generate: classification",
        ("phantom taken --patients 1",),
        f"{GENERATE} --count 2 --dataset-id 601 --classification taken",
        "choose another --classification",
        (f"{GENERATE} --count 2 --dataset-id 601 --classification free",),
    ),
    Scene(
        "generate: device",
        (),
        f"{GENERATE} --count 1 --dataset-id 601 --device cuda",
        "use --device cpu",
        (f"{GENERATE} --count 1 --dataset-id 601 --device cpu",),
    ),
    Scene(
        "generate: precision",
        (),
        f"{GENERATE} --count 1 --dataset-id 601 --device cpu".replace("fp32", "fp16"),
        "bf16 or fp32",
        (f"{GENERATE} --count 1 --dataset-id 601 --device cpu",),
    ),
    Scene(
        "train: a run",
        (f"{VAE} --out run",),
        f"{VAE} --out run",
        "pass --resume to continue it, --overwrite to replace it, or another --out",
        (f"{VAE} --out run --resume", f"{VAE} --out run --overwrite", f"{VAE} --out other"),
    ),
    Scene(
        "train: other settings",
        (f"{VAE} --out run",),
        f"{VAE} --out run --lr 0.5 --resume",
        "use the same settings, or another --out",
        (f"{VAE} --out run --resume", f"{VAE} --out other --lr 0.0005"),
    ),
    Scene(
        "average-weights",
        (f"{VAE} --out run",),
        "average-weights run --std 0.05 --out mean",
        "train with --snapshots 8",
        (f"{LONGER} --out kept --snapshots 8", "average-weights kept --std 0.05 --out mean"),
    ),
    Scene(
        "evaluation",
        (JUDGE,),
        f"{JUDGE} --seed 1",
        "pass --overwrite to replace it, or choose another --out",
        (f"{JUDGE} --seed 1 --overwrite", f"{JUDGE} --seed 1 --out other"),
    ),
    Scene(
        "evaluation: of another command",
        ("phantom ph --patients 1",),
        f"{JUDGE} --out ph --overwrite",
        "choose another --out",
        (f"{JUDGE} --out other",),
    ),
    Scene("evaluation: of what", (), "bootstrap-eval --repeats 10", "pass --predictions", (JUDGE,)),
    Scene(
        "prior",
        ("fit-prior --dataset-id 501 --out p",),
        "fit-prior --dataset-id 501 --out p",
        "pass --overwrite to replace it, or choose another --out",
        ("fit-prior --dataset-id 501 --out p --overwrite", "fit-prior --dataset-id 501 --out q"),
    ),
    Scene(
        "vae inspected",
        ("inspect-vae {bundled}/gamma-vae-64 --dataset-id 501 --out p",),
        "inspect-vae {bundled}/gamma-vae-64 --dataset-id 501 --out p",
        "pass --overwrite to replace it, or choose another --out",
        ("inspect-vae {bundled}/gamma-vae-64 --dataset-id 501 --out p --overwrite",),
    ),
    Scene(
        "solvers: bundled",
        (),
        STUDY,
        "pass --out, or --checkpoint with a run of yours",
        (f"{STUDY} --out s", "study-solvers --model edm-l64 --nfe 1 --converged 11 --count 1 --checkpoint {run}"),
    ),
    Scene(
        "grid",
        ("sample-grid --model edm-l64 --dataset-id 501 --nfe 1 --count 1 --out g.png",),
        "sample-grid --model edm-l64 --dataset-id 501 --nfe 1 --count 1 --out g.png",
        "pass --overwrite to replace it, or choose another --out",
        ("sample-grid --model edm-l64 --dataset-id 501 --nfe 1 --count 1 --out g.png --overwrite",),
    ),
    Scene(
        "page",
        (),
        "report {home} --out foreign.html",
        "pass --overwrite to replace it, or choose another --out",
        ("report {home} --out page.html", "report {home} --out foreign.html --overwrite"),
    ),
    Scene(
        "camus: a case is missing",
        (),
        "convert-camus {incomplete} --dataset-id 502",
        "pass --allow-missing to leave incomplete cases out",
        ("convert-camus {incomplete} --dataset-id 502 --allow-missing",),
    ),
    Scene(
        "mixture: the same cases",
        (f"{GENERATE} --count 2 --dataset-id 601", f"{GENERATE} --count 2 --dataset-id 602"),
        "mix-datasets --real 501 --synthetic 601 --synthetic 602 --share 0.5 --dataset-id 711",
        "draw them with different --seed",
        (
            f"{GENERATE} --count 2 --dataset-id 603 --seed 1",
            "mix-datasets --real 501 --synthetic 601 --synthetic 603 --share 0.5 --dataset-id 711",
        ),
    ),
    Scene(
        "segmenter",
        (),
        f"predict-segmenter --dataset-id 501 --images {RAW}/imagesTs",
        "run 'echosynth train-segmenter --dataset-id 501 --trainer nnUNetTrainerEchoSynth' first",
        ("train-segmenter --dataset-id 501 --trainer nnUNetTrainerEchoSynth --dry-run",),
    ),
    Scene(
        "sweep: folder of another command",
        (),
        f"sweep smoke --out {RAW}",
        "belongs to 'echosynth convert-camus'; choose another --out",
        ("sweep smoke --out free --dry-run", "sweep smoke --out free --status"),
    ),
    Scene(
        "demo: folder of another command",
        (),
        f"demo --out {RAW}",
        "belongs to 'echosynth convert-camus'; choose another --out",
        ("demo --out free --dry-run",),
    ),
    Scene(
        "quality: kept under a taken id",
        (f"{GENERATE} --count 2 --dataset-id 601",),
        "quality --dataset-id 601 --real 501 --perceptual none --drop 501 --dry-run",
        "choose another --drop",
        ("quality --dataset-id 601 --real 501 --perceptual none --drop 777 --rate 0.5 --dry-run",),
    ),
    Scene(
        "quality: not all",
        (f"{GENERATE} --count 2 --dataset-id 601",),
        "quality --dataset-id 601 --real 501 --perceptual none --drop 777 --count 2 --dry-run",
        "leave out --count",
        ("quality --dataset-id 601 --real 501 --perceptual none --drop 777 --rate 0.5 --dry-run",),
    ),
    Scene(
        "train: a cut state",
        (f"{VAE} --out run", "!cut run/state.safetensors"),
        f"{LONGER} --out run --resume",
        "train again with --overwrite",
        (f"{VAE} --out run --overwrite", f"{LONGER} --out run --resume"),
    ),
    Scene(
        "train: a state of NaN",
        (f"{VAE} --out run", "!spoil run/state.safetensors"),
        f"{LONGER} --out run --resume",
        "holds values that are not finite (NaN or infinity); train again with --overwrite",
        (f"{VAE} --out run --overwrite",),
    ),
    Scene(
        "train: weights without a state",
        (f"{VAE} --out run", "!remove run/state.safetensors"),
        f"{VAE} --out run --resume",
        "start from them with --init and another --out",
        (f"{VAE} --init run --out next",),
    ),
    Scene(
        "distill: weights without a state",
        ("!copy {bundled}/edm-l64 student",),
        "distill --teacher {bundled}/edm-l64 --dataset-id 501 --images 4 --batch 4 --copies 1 --out student --resume",
        "so it cannot be continued; choose another --out",
        ("distill --teacher {bundled}/edm-l64 --dataset-id 501 --images 4 --batch 4 --copies 1 --out other --dry-run",),
    ),
    Scene(
        "train: nothing to resume",
        (),
        f"{VAE} --resume",
        "pass --out, or start one without --resume",
        (f"{VAE}",),
    ),
    Scene(
        "train: another folder",
        ("phantom ph --patients 1",),
        f"{VAE} --out ph",
        "holds other files and no run; choose another --out",
        (f"{VAE} --out run",),
    ),
    Scene(
        "train: too fast",
        (),
        f"{LONGER} --out run --lr 100",
        "train again with a lower --lr and --overwrite",
        (f"{VAE} --out run --lr 0.0005 --overwrite",),
    ),
    Scene(
        "texture: damaged",
        (f"{VAE} --out run", f"{EDM} --vae run --out edm", "!spoil run/texture.safetensors"),
        f"{GENERATE} --count 1 --checkpoint edm --vae run --dataset-id 601",
        "train-vae --resume makes it again",
        (f"{VAE} --out run --resume", f"{GENERATE} --count 1 --checkpoint edm --vae run --dataset-id 601"),
    ),
    Scene(
        "generate: a Γ-VAE that moved",
        (f"{VAE} --out run", f"{EDM} --vae run --out edm", "!move run {home}/elsewhere"),
        f"{GENERATE} --count 1 --checkpoint edm --dataset-id 601",
        "pass --vae with its folder",
        (f"{GENERATE} --count 1 --checkpoint edm --vae {{home}}/elsewhere --dataset-id 601",),
    ),
    Scene(
        "generate: no run",
        (),
        "generate --model sdm --nfe 1 --count 1",
        "run 'echosynth train --model sdm …'",
        ("train --model sdm --dataset-id 501 --size tiny --images 4 --batch 4 --copies 1 --dry-run",),
    ),
    Scene(
        "generate: physics",
        (),
        "generate --model bmode --count 1 --nfe 5 --dataset-id 601",
        "--model bmode has no network: leave --nfe out",
        ("generate --model bmode --count 1 --dataset-id 601",),
    ),
    Scene(
        "camus: a patient is missing",
        ("!remove {incomplete}/database_nifti/patient0001",),
        "convert-camus {incomplete} --dataset-id 502",
        "pass --allow-missing to go on without them, or another --split",
        ("convert-camus {incomplete} --dataset-id 502 --allow-missing",),
    ),
    Scene(
        "evaluation: half of it",
        (),
        f"bootstrap-eval --references {RAW}/labelsTs --classifier {{run}}",
        "--classifier and --images belong together; pass both or neither",
        (JUDGE,),
    ),
]


class Shell:
    """Types command lines into an own copy of the converted phantom."""

    def __init__(
        self,
        converted: Path,
        phantom: Path,
        folder: Path,
        patch: pytest.MonkeyPatch,
        output: pytest.CaptureFixture[str],
    ) -> None:
        shutil.copytree(converted, folder / "home")
        shutil.copytree(phantom, folder / "incomplete")
        next((folder / "incomplete").rglob("*_2CH_ED.nii.gz")).unlink()
        shutil.copytree(ROOT / "data_specs/bundled/edm-l64", folder / "studied")
        (folder / "foreign.html").write_text("<html></html>")
        self.names = {"home": folder / "home", "phantom": phantom, "bundled": ROOT / "data_specs/bundled"}
        self.names |= {"incomplete": folder / "incomplete", "run": folder / "studied"}
        self.patch, self.output = patch, output
        patch.setattr(typer.main, "get_command", lambda app: COMMANDS)  # takes as long as many a command to make
        patch.setenv("ECHOSYNTH_HOME", str(folder / "home"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.chdir(folder)

    def befall(self, line: str) -> tuple[int, str]:
        """What "!" and a verb do to files; always ends well."""
        verb, *names = line.format(**self.names).removeprefix("!").split()
        paths = [Path(name) for name in names]
        if verb == "remove":
            shutil.rmtree(paths[0]) if paths[0].is_dir() else paths[0].unlink()
        elif verb == "cut":
            paths[0].write_bytes(paths[0].read_bytes()[:500])
        elif verb == "spoil":
            tensors, metadata = load_tensors(paths[0])
            tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")
            save_tensors(paths[0], tensors, metadata)
        elif verb == "move":
            paths[0].rename(paths[1])
        else:
            shutil.copytree(*paths)
        return 0, ""

    def type(self, line: str) -> tuple[int, str]:
        """Exit status, and what was printed to standard error."""
        if line.startswith("!"):
            return self.befall(line)
        self.patch.setattr(sys, "argv", ["echosynth", *shlex.split(line.format(**self.names))])
        self.output.readouterr()
        status = 0
        try:
            entry.main()
        except SystemExit as e:
            status = int(e.code or 0)
        return status, self.output.readouterr().err


@pytest.fixture
def shell(
    converted: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A shell in a folder of its own."""
    return Shell(converted, phantom, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.name)
def test_what_a_message_advises_works(scene: Scene, shell: Shell) -> None:
    for line in scene.before:
        status, message = shell.type(line)
        assert status == 0, f"{line}: {message}"
    status, message = shell.type(scene.refused)
    assert status in (1, 2)
    assert scene.says in message
    for line in scene.advised:
        status, message = shell.type(line)
        assert status == 0, f"{line}: {message}"


@pytest.mark.slow
def test_an_unfinished_training_names_the_command_that_finishes_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, it prints a command; what needs its weights names --resume and the option for others: all three work."""
    step = Engine._advance

    def interrupted(engine: Engine) -> None:
        step(engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_advance", interrupted)
        status, message = shell.type(LONGER)  # of two steps, so that one is left
    assert status == 130
    going_on = message.rpartition("continue with: echosynth ")[2].strip()
    train = "train --model edm-l64 --dataset-id 501 --size tiny --images 4 --batch 4 --copies 1 --precision fp32"
    status, refusal = shell.type(f"{train} --out edm")
    assert status == 1
    assert "finish it with 'echosynth train-vae --resume …', or name the weights to use with --vae" in refusal
    assert shell.type(f"{train} --out edm --vae {{bundled}}/gamma-vae-64")[0] == 0
    assert shell.type(going_on)[0] == 0
    assert shell.type(f"{train} --out second")[0] == 0


@pytest.mark.slow
def test_what_a_command_says_comes_next_works(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.patch.setattr(sys, "argv", ["echosynth", "phantom", "ph", "--patients", "4"])
    with pytest.raises(SystemExit):
        entry.main()
    following = capsys.readouterr().out.rpartition("next: echosynth ")[2].splitlines()[0]
    assert shell.type(following)[0] == 0
