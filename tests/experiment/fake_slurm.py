"""Programs with Slurm's names that run jobs on this machine at once, one after the other, and remember their states."""

from __future__ import annotations

import sys
from pathlib import Path

# Of a job that is started: what its environment says. A file named as the job in states/ holds what squeue tells.
_SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
here = Path({here!r})
text = Path(sys.argv[1]).read_text()
(here / "submitted.sh").write_text(text)
if (here / "refuse").is_file():
    sys.exit((here / "refuse").read_text())
number = 7
name = re.search(r"--job-name=(\\S+)", text)[1]
array = re.search(r"--array=0-(\\d+)", text)
tasks = range(int(array[1]) + 1) if array else [None]
print(f"Submitted batch job {{number}}", flush=True)
for task in tasks:
    job = str(number) if task is None else f"{{number}}_{{task}}"
    (here / "states" / job).write_text(f"RUNNING|{{name}}|None")
    names = {{"SLURM_JOB_ID": str(number + (task or 0)), "SLURM_PROCID": "0"}}
    if task is not None:
        names |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
    run = (
        f"sleep 1; bash {{sys.argv[1]}} >> {{here}}/output 2>&1; status=$?; "
        f"[ $status = 0 ] && echo 'COMPLETED|{{name}}|None' > {{here}}/states/{{job}} || echo 'FAILED|{{name}}|NonZeroExitCode' > {{here}}/states/{{job}}"
    )
    nothing = subprocess.DEVNULL
    subprocess.Popen(["bash", "-c", run], env=os.environ | names, stdin=nothing, stdout=nothing, stderr=nothing)
"""
_SRUN = """#!/bin/sh
while [ "$1" != "${1#-}" ]; do
  case "$1" in --unbuffered) shift;; *) shift 2;; esac
done
exec "$@"
"""
_SQUEUE = """#!/bin/sh
[ -f {here}/down ] && {{ echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1; }}
[ -z "$(ls {here}/states)" ] && {{ echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }}
cd {here}/states
for job in *; do echo "$job|$(cat $job)"; done
"""
_SACCT = """#!/bin/sh
[ -f {here}/accounted ] && cat {here}/accounted && exit 0
echo 'Slurm accounting storage is disabled' >&2
exit 1
"""


def install(folder: Path) -> Path:
    """The programs in `folder`, which is to be the first of PATH; returns it."""
    (folder / "states").mkdir(parents=True)
    fill = {"python": sys.executable, "here": str(folder)}
    programs = {
        "sbatch": _SBATCH.format(**fill),
        "srun": _SRUN,
        "squeue": _SQUEUE.format(**fill),
        "sacct": _SACCT.format(**fill),
        "scontrol": "#!/bin/sh\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
