"""The application, and the boundary at which expected errors become one or two lines."""

from __future__ import annotations

import os
import sys

import typer

from cli import (
    browse_commands,
    classifier_commands,
    convert_commands,
    data_commands,
    demo,
    distill_commands,
    evaluate_commands,
    find_commands,
    generate_commands,
    import_commands,
    inspect_commands,
    measure_commands,
    plan_commands,
    quality_commands,
    report_commands,
    segmenter_commands,
    sweep_commands,
    train_commands,
    verify_commands,
)
from cli.command import Application, tell_interrupted
from cli.screen import show_everything
from echo_synth.interrupt import WITHIN

EPILOG = """\b
Environment:
  ECHOSYNTH_HOME   where runs, maps and datasets go (default ./echosynth_home)
  nnUNet_raw, nnUNet_preprocessed, nnUNet_results
                   nnU-Net's own folders (default below ECHOSYNTH_HOME/nnunet)
  ECHOSYNTH_DEBUG  1: same as --debug
  NO_COLOR         any value: no colours, also in progress bars

\b
Exit codes:
  0 done, 1 an error in one or two lines, 2 wrong usage, 130 interrupted
"""

app = Application(
    name="echosynth",
    help="Synthetic echocardiograms for training models: CAMUS, Γ-VAE, semantic diffusion, nnU-Net, statistics.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    data_commands,
    convert_commands,
    train_commands,
    distill_commands,
    generate_commands,
    import_commands,
    inspect_commands,
    measure_commands,
    segmenter_commands,
    classifier_commands,
    evaluate_commands,
    report_commands,
    quality_commands,
    sweep_commands,
    plan_commands,
    find_commands,
    verify_commands,
    browse_commands,
    demo,
):
    group.register(app)


def _version(value: bool) -> None:
    if value:
        from echo_synth import __version__

        typer.echo(f"echosynth {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="With any command: show the full traceback of an error."),
) -> None:
    # What --debug does is done in `main`, which takes it off the command line wherever it stands.
    pass


def _let_threads_sleep() -> None:
    """Threads that wait for one another sleep after a moment; told to the OpenMP library, which torch loads later.

    Left alone they spin, and on cores that another program uses too, most of the time goes into waiting: 64 images took 24.0 s
    instead of 10.5. On quiet cores 192 images took 5.3 s, and 5.5 with this (docs/RESULTS.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _open_what_is_closed() -> None:
    """Standard streams that the caller closed lead to nowhere; else the next file that is opened would be taken for one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _refuse_a_folder_that_is_gone() -> None:
    try:
        os.getcwd()
    except OSError:
        print("error: the current folder no longer exists; change to another one", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Console entry point. Exit codes: 0 done, 1 a clear error, 2 wrong usage, 130 interrupted."""
    _open_what_is_closed()
    _refuse_a_folder_that_is_gone()
    show_everything()
    _let_threads_sleep()
    if "SLURM_JOB_ID" in os.environ:
        from echo_synth.parallel import keep_to_slurm_cores

        keep_to_slurm_cores()
    if os.environ.get(WITHIN, "").isdecimal():
        from echo_synth.parallel import end_with_writer

        end_with_writer(int(os.environ[WITHIN]))
    debug = "--debug" in sys.argv or bool(os.environ.get("ECHOSYNTH_DEBUG"))
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except KeyboardInterrupt:  # before a command began
        tell_interrupted()
        sys.exit(130)
    except Exception as e:
        if debug:
            raise
        from cli.boundary import explain
        from echo_synth.progress import close_all

        close_all()
        print(f"error: {explain(e)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
