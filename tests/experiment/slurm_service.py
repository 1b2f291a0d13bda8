"""Slurm on one node, on loopback, in a folder of its own: munge, the controller and the node's daemon."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # where the daemons are
_CONFIGURATION = """
ClusterName=echosynth
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={here}/munge.socket
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=120 State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@dataclass
class Service:
    """Daemons that run; `environment` is that of who talks to them."""

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        """A daemon in the foreground, its output in a log."""
        with open(self.folder / f"{name}.out", "ab") as log:
            program = shutil.which(name, path=_PATH)
            self.daemons[name] = subprocess.Popen([str(program), *words], env=self.environment, stdout=log, stderr=log)

    def start_controller(self) -> None:
        self.start("slurmctld", "-D")

    def kill(self, name: str) -> None:
        """As a crash would."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def ask(self, *words: str) -> str:
        """Output of one of Slurm's commands; empty where it fails, or gets nowhere (scancel repeats a signal to a job that is requeued)."""
        try:
            result = subprocess.run(
                words, env=self.environment, capture_output=True, text=True, timeout=20, check=False
            )
        except subprocess.TimeoutExpired:
            return ""
        return result.stdout if result.returncode == 0 else ""

    def running(self) -> list[str]:
        """Ids of the jobs that run."""
        return self.ask("squeue", "-h", "-r", "-t", "running", "-o", "%i").split()


@contextmanager
def slurm_service() -> Iterator[Service]:
    """Up until the block ends. Raises RuntimeError with the end of the logs where the node does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # a socket's path has to be short
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    fill = {"here": folder, "host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
    ports = {"controller_port": _free_port(), "node_port": _free_port(), "cores": len(os.sched_getaffinity(0))}
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(**fill, **ports))
    service = Service(folder, {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")})
    files = {
        "key-file": "munge.key",
        "socket": "munge.socket",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    try:
        service.start(
            "munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in files.items())
        )
        _until(lambda: (folder / "munge.socket").exists(), service, 30)
        service.start_controller()
        service.start("slurmd", "-D")
        _until(lambda: service.ask("sinfo", "-h", "-o", "%t").strip() == "idle", service, 60)
        yield service
    finally:
        service.ask("scancel", "--user", getpass.getuser())
        time.sleep(1)
        for daemon in reversed(list(service.daemons.values())):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _until(ready: object, service: Service, seconds: float) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            logs = [
                f"{f.name}: {f.read_text(errors='replace')[-800:]}"
                for f in sorted(service.folder.glob("*.[lo][ou][gt]"))
            ]
            raise RuntimeError("Slurm does not come up\n" + "\n".join(logs))
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
