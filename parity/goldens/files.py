"""Published digests, held against those of the files that the weights were read from.

Only a file that is taken for a published one is judged by its name: `model.safetensors` is what
everybody calls theirs, and the released weights saved again are other bytes and no fault.
"""

from parity.compare import Status
from parity.goldens.rows import Measured, NoValueError
from parity.goldens.subject import Subject
from parity.provenance import FileDigest, Standing
from reference.golden_schema import Golden


def digest_of(golden: Golden, subject: Subject) -> Measured:
    """Return the digest of the file that a golden names.

    Raises:
        NoValueError: That file was not read, or the digest not taken.
    """
    file = _file(golden, subject)
    got = _digest(golden, file) if file is not None else None
    if got is None:
        raise NoValueError(Status.NOT_RUN, why_exempt(golden, subject))
    return Measured(got=got, difference=None)


def why_exempt(golden: Golden, subject: Subject) -> str:
    """Return why a golden is not asked; an empty text where it is."""
    file = _file(golden, subject)
    if file is None:
        return "no file of that name was read"
    got = _digest(golden, file)
    if got is None:
        return f"its {golden.inputs['algorithm']} was not taken"
    if got != golden.expected and file.standing is Standing.UNKNOWN:
        return "a file of that name was read that does not claim to be the published one"
    return ""


def _file(golden: Golden, subject: Subject) -> FileDigest | None:
    """Return the file of the golden's name that was read, if one was."""
    named = [file for file in subject.provenance.files if file.name == golden.inputs["file"]]
    return named[0] if named else None


def _digest(golden: Golden, file: FileDigest) -> str | None:
    return {"sha256": file.sha256, "git_blob": file.git_blob}[golden.inputs["algorithm"]]
