"""One parser, one list and one error for the faults of every kind."""

import pytest

from parity.errors import UsageError
from parity.faults.backward import BackwardFault
from parity.faults.forward import FORWARD_FAULTS, ForwardFault
from parity.faults.generation import GenerationFault
from parity.faults.registry import Fault, faults_of, listing, parse
from parity.faults.tokenizer import TOKENIZER_FAULTS, TokenizerFault
from parity.faults.training import TrainingFault


@pytest.mark.parametrize(
    ("text", "expected"), [("epsilon", 6), ("epsilon@0", 0), ("epsilon@11", 11)]
)
def test_a_name_has_a_block_or_the_middle_one(text: str, expected: int) -> None:
    found, block = parse(text, [ForwardFault], n_layer=12)
    assert ("epsilon", expected) == (found.name, block)


@pytest.mark.parametrize("text", ["epsilon@12", "epsilon@", "epsilon@-1", "epsilon@x"])
def test_a_block_must_exist(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, [ForwardFault], n_layer=12)
    assert "there is no block" in caught.value.what
    assert "0 to 11" in caught.value.fix


def test_a_fault_without_a_block_takes_none() -> None:
    with pytest.raises(UsageError, match="beta1 has no block"):
        parse("beta1@3", [TrainingFault])
    assert parse("beta1", [TrainingFault])[0].name == "beta1"


@pytest.mark.parametrize(
    "kinds", [[ForwardFault, BackwardFault], [TrainingFault], [TokenizerFault], [GenerationFault]]
)
def test_an_unknown_name_lists_the_faults_of_the_check(kinds: list[type[Fault]]) -> None:
    with pytest.raises(UsageError, match="no fault is called 'list'") as caught:
        parse("list", kinds)
    listed = {name: entry for kind in kinds for name, entry in faults_of(kind).items()}
    assert f"use {listing(listed)}" == caught.value.fix


def test_a_fault_that_does_not_fit_is_unknown() -> None:
    with pytest.raises(UsageError) as caught:
        parse("accents-kept", [TokenizerFault], fits=lambda f: "original" in f.of, where="here")
    original = {name: f for name, f in TOKENIZER_FAULTS.items() if "original" in f.of}
    assert (f"use {listing(original)}", "here") == (caught.value.fix, caught.value.where)


def test_two_faults_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="two faults are called epsilon"):
        ForwardFault.register("epsilon", "again", at="logits")(len)
    assert FORWARD_FAULTS["epsilon"].what != "again"
