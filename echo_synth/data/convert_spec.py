"""What `convert` does with a dataset that a spec describes: its cases, split and origin, without reading an image."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from echo_synth.data.camus import choose_some, hold_out_validation
from echo_synth.data.convert import ConversionPlan, ConvertJob, Origin
from echo_synth.data.dataset_spec import SpecFile
from echo_synth.data.sources import OTHER
from echo_synth.data.spec_cases import find_spec_cases, split_patients
from echo_synth.data.spec_pair import read_spec_case

MADE_BY = "convert"


def plan_spec(src: Path, file: SpecFile, allow_missing: bool, patients: int | None = None) -> ConversionPlan:
    """Cases below `src` with their splits.

    Args:
        allow_missing: leave out images without mask, and patients that only the folder or the lists know.
        patients: how many to convert; None for all.

    Raises as `spec_cases.find_spec_cases` and `split_patients`; DataError for fewer patients than asked for.
    """
    files = find_spec_cases(src, file, allow_missing)
    listed = split_patients({case.id.patient for case in files.cases}, file, allow_missing)
    split_of = hold_out_validation(choose_some(listed, patients) if patients else listed)
    chosen = [case for case in files.cases if case.id.patient in split_of]
    jobs = [ConvertJob(case, split_of[case.id.patient], None) for case in chosen]
    notes = []
    if files.missing:
        notes.append(f"left out {len(files.missing)} image(s) without mask, listed in settings.json")
    if files.passed_over:
        first = files.passed_over[0].relative_to(src)
        notes.append(
            f"passed over {len(files.passed_over)} file(s) that do not fit '{file.spec.images.text}', the first: {first}; "
            "a patient's name has letters, digits and ._+-"
        )
    if "val" not in listed.values():
        notes.append("the split has no validation patients: every tenth training patient became one")
    if "test" not in listed.values():
        notes.append("the split has no test patients: nothing will be held out to judge a segmenter by")
    return ConversionPlan(jobs, split_of, file.at("split"), files.missing, notes)


def origin_of_spec(file: SpecFile) -> Origin:
    """Whose cases they are, as `convert.convert` needs it."""
    spec = file.spec
    stated = {"title": spec.title, "source": OTHER, "licence": spec.licence}
    return Origin(MADE_BY, partial(read_spec_case, file=file), spec.subject(), stated)
