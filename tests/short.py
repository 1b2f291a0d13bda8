"""`python -m tests.short …` is `echosynth …` whose trainings show one picture of few evaluations and fit the texture to few images.

That is most of the time of so short a training, and no test looks at more; what does so says it with its own numbers.
Commands that it starts, as demo and sweep do, are as short.
"""

from __future__ import annotations

import pkgutil

FEWER: dict[str, int | str] = {
    "echo_synth.experiment.shell:_PROGRAM": "tests.short",
    "echo_synth.experiment.demo:_FEWEST_PATIENTS": 5,
    "echo_synth.experiment.demo:_LEAST_SHARE": 0,
    "echo_synth.experiment.demo:_FEWEST_ITERATIONS": 2,
    "echo_synth.training.tasks.diffusion:_PICTURES": 1,
    "echo_synth.training.tasks.diffusion:_PICTURE_NFE": 3,
    "echo_synth.training.tasks.vae:_PICTURES": 1,
    "echo_synth.training.texture:_IMAGES": 4,
}


def main() -> None:
    """The command, shortened."""
    from cli.main import main as whole

    for place, shorter in FEWER.items():
        module, _, name = place.partition(":")
        setattr(pkgutil.resolve_name(module), name, shorter)
    whole()


if __name__ == "__main__":
    main()
