"""What was published of GPT-1: where, at which commit, and the digests of the files.

Data alone. Nothing here was computed from the files of this machine.
"""

from typing import Literal

Standing = Literal["known", "unknown", "differs"]

REPOSITORIES = ("openai-gpt", "openai-community/openai-gpt")
"""Ids of one and the same repository on Hugging Face's hub; the first is its name of 2018."""

REVISION = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"
"""Commit of that repository that is taken unless another is asked for.

Source: the head of openai-community/openai-gpt's main branch, 21 commits, as its pages show it.
"""

PARAMETERS = 116_534_784
"""Source: the shapes in openai/finetune-transformer-lm@a69b5c4, model/params_shapes.json."""

_VOCABULARY = "fdf49b19e7de236852091da09b84a7a3cd5e7b0e79916376cf45f6b8127b8078"
_MERGES = "0ea9b51ae695073cd871e0358f7016311d671a7ff3963e367d5236522f294725"

SHA256 = {
    "model.safetensors": "25c82cdf1844d2d93e9120b3b628fc6c2b4fcc7801a1297f58465ba67d45deb3",
    "pytorch_model.bin": "16e27229889ec4dc473665eb83c9cc3441b3b67be77e0e306d1bbb653b40e0fc",
    "vocab.json": _VOCABULARY,
    "merges.txt": _MERGES,
    "encoder_bpe_40000.json": _VOCABULARY,
    "vocab_40000.bpe": _MERGES,
}
"""By file name. The hub's vocabulary is the release's under other names.

Source: the file pages of openai-community/openai-gpt for the weights, which are kept under their
SHA-256 there; for the vocabulary, the files of openai/finetune-transformer-lm@a69b5c4.
"""

GIT_BLOBS = {
    "params_0.npy": "84d83ac1f1cc878f56f33b167482c184491875d2",
    "params_1.npy": "0f19f4d4cda3d8f908e3faffd2cb2a8b9a4039da",
    "params_2.npy": "25bc19c72fdff69505a828ec6d73b32063532148",
    "params_3.npy": "5b2e6958d42a930966c9d602a012eb846ca67c83",
    "params_4.npy": "87ad158987e307e6aa64952610f466d750b73bc7",
    "params_5.npy": "74f3853316bba327229605dbedfe921996f11448",
    "params_6.npy": "5ef44e40bc076d0c9686d1273d54cbc16c3f0980",
    "params_7.npy": "d8d5c8d3bee9b20a677605ac1fe6c7af4df57c94",
    "params_8.npy": "f980f4b393716f396ae5ae6401708dcf4f270dc9",
    "params_9.npy": "d389eb2074dd74754444b8062aba78b49f6a9053",
    "params_shapes.json": "29fac299ae848d7e447be84a33345edcf1b5353c",
    "encoder_bpe_40000.json": "9dc3f0af5a80956e57dc8d9401e16dfadcade7c2",
    "vocab_40000.bpe": "0023a687b3d4d0b795a5e97cc914bdabb5a253df",
}
"""By file name, as `git hash-object` prints them.

Source: the tree of openai/finetune-transformer-lm@a69b5c4, model/.
"""


def standing(
    name: str, *, sha256: str, git_blob: str | None = None, released: bool = False
) -> Standing:
    """Return how a file stands to the published one of its name.

    A name alone claims nothing: every model has a `model.safetensors`. Only where the caller says
    that these are the released weights is another digest a difference.

    Args:
        name: The file's name, without folders.
        sha256: Of its bytes, in hexadecimal.
        git_blob: The id that git gives its bytes, where it was computed.
        released: Whether the file is said to be the released model's.

    Returns:
        `known` for the published bytes, `differs` for others under a published name that are said
        to be released, else `unknown`.
    """
    published = {SHA256.get(name), GIT_BLOBS.get(name)} - {None}
    if published & {sha256, git_blob}:
        return "known"
    return "differs" if released and published else "unknown"
