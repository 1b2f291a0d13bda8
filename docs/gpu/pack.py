"""A parcel for a GPU machine without network: packages that it lacks, and patients, in one .tar.xz of at most 64 MiB.

    python docs/gpu/pack.py PARCEL.tar.xz [--lacks nnunetv2,SimpleITK,timm] [--has FREEZE.txt] [--python 3.12] [--camus CAMUS]

Run it where EchoSynth is installed. Packages are taken from this installation with all that they need; those with machine code
for one version of Python only come from pip where the other machine has another. Patients are simulated unless --camus names a folder.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MOST_MIB = 64
# What a machine that trains with torch has; these would not fit.
PRESENT = ("torch", "torchvision", "triton", "numpy", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit")
_NEVER = re.compile(r"nvidia-.*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DATASET = 501


def sufficient(freeze: str, wanted: Iterable[str]) -> list[str]:
    """Names in the text of a `pip freeze`, without those whose version there is none of the `wanted` requirements'."""
    asked = {canonical(r.name): r.specifier for r in map(Requirement, wanted)}
    there = (re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([^\s;]+))?", line.strip()) for line in freeze.splitlines())
    return [
        m[1]
        for m in there
        if m and (not m[2] or canonical(m[1]) not in asked or asked[canonical(m[1])].contains(m[2], prereleases=True))
    ]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(roots: Iterable[str], present: Iterable[str]) -> list[str]:
    """Distributions that `roots` need, themselves included, as this installation has them; `present` are left out.

    So are old copies of the standard library's modules (argparse): before it on the path, they would be taken instead.

    Raises SystemExit for a root that is not installed here.
    """
    left_out, found, waiting = {canonical(n) for n in present}, dict[str, None](), [canonical(n) for n in roots]
    first = set(waiting)
    while waiting:
        name = waiting.pop()
        if name in found or name in left_out or name in sys.stdlib_module_names or _NEVER.fullmatch(name):
            continue
        try:
            requirements = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            if name in first:
                sys.exit(f"{name}: is not installed here; install it, or leave it out of --lacks")
            continue  # for another system, or another version of Python
        found[name] = None
        waiting += [canonical(m.group()) for r in requirements if "extra ==" not in r and (m := _NAME.match(r))]
    return sorted(found)


def files_of(name: str) -> list[Path]:
    """Installed files of a distribution, relative to its site-packages; no scripts, no bytecode, none of its own tests."""
    listed = metadata.distribution(name).files or []
    return [Path(f) for f in listed if not {"..", "tests"} & set(f.parts) and f.suffix != ".pyc"]


def fits(name: str, python: str) -> bool:
    """Whether this installation's files of a distribution work under that version of Python too."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine_code = [f.name for f in files_of(name) if f.name.endswith(".so") and ".cpython-" in f.name]
    return python == here or not machine_code


def add_packages(tar: tarfile.TarFile, names: Iterable[str], python: str) -> list[str]:
    """Put distributions below site/; returns those that need another build."""
    others = []
    for name in names:
        if not fits(name, python):
            others.append(f"{name}=={metadata.version(name)}")
            continue
        for file in files_of(name):
            source = Path(str(metadata.distribution(name).locate_file(file)))
            if source.is_file():
                tar.add(source, str(PurePosixPath("site", *file.parts)), filter=_plain)
    return others


def add_downloaded(tar: tarfile.TarFile, requirements: list[str], python: str) -> None:
    """Builds for that version of Python, from pip's own index."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--no-deps",
            "--no-compile",
            "--only-binary",
            ":all:",
            "--python-version",
            python,
            "--target",
            folder,
        ]
        platforms = [p for kind in ("manylinux2014", "manylinux_2_28") for p in ("--platform", f"{kind}_x86_64")]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, *platforms, *requirements], check=True)
        tar.add(folder, "site", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without names of this machine's users, and without bytecode."""
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def add_data(tar: tarfile.TarFile, camus: Path | None, patients: int) -> None:
    """A converted dataset and its maps below home/, made by our own commands."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
        environment = kept | {"ECHOSYNTH_HOME": str(home), "PYTHONPATH": str(ROOT)}

        def ours(*words: object) -> None:
            subprocess.run([sys.executable, "-m", "cli.main", *map(str, words)], env=environment, cwd=ROOT, check=True)

        source = camus.resolve() if camus else Path(folder) / "phantom"
        if camus is None:
            ours("phantom", source, "--patients", patients)
        split = ["--split", source / "database_split"] if (source / "database_split").is_dir() else []
        chosen = ["--patients", patients] if camus else ["--name", "PHANTOM"]
        ours("convert-camus", source, "--dataset-id", DATASET, *split, *chosen)
        ours("make-maps", "--dataset-id", DATASET, "--repeats", 2)
        for part in ("nnunet/raw", "maps"):
            tar.add(home / part, f"home/{part}", filter=_plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parcel", type=Path)
    parser.add_argument(
        "--lacks", help="distributions that the other machine lacks, comma separated; default: ours, all"
    )
    parser.add_argument("--has", type=Path, help="`pip freeze` of the other machine: what it has is left out")
    parser.add_argument(
        "--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="of the other machine"
    )
    parser.add_argument("--camus", type=Path, help="CAMUS folder; default: simulated patients")
    parser.add_argument("--patients", type=int, default=40, help="0: packages only")
    arguments = parser.parse_args()
    present = list(PRESENT)
    if arguments.has:
        present += sufficient(arguments.has.read_text(), metadata.requires("echosynth") or [])
    roots = arguments.lacks.split(",") if arguments.lacks is not None else ["echosynth", "pytest"]
    names = [n for n in needed(filter(None, roots), present) if n != "echosynth"]  # that one is the checkout itself
    partial = arguments.parcel.with_name(f".partial-{arguments.parcel.name}")
    try:
        with tarfile.open(partial, "w:xz") as tar:
            if arguments.patients:
                add_data(tar, arguments.camus, arguments.patients)
            others = add_packages(tar, names, arguments.python)
            if others:
                add_downloaded(tar, others, arguments.python)
        mib = partial.stat().st_size / 2**20
        if mib > MOST_MIB:
            sys.exit(
                f"{mib:.0f} MiB, expected at most {MOST_MIB}: fewer --patients, or --has and --lacks to leave packages out"
            )
        os.replace(partial, arguments.parcel)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{arguments.parcel}: {mib:.1f} MiB, {len(names)} packages: {', '.join(names) or 'none'}")


if __name__ == "__main__":
    main()
