"""Methods that need a head per modality."""

import pytest
from helpers.all_methods import HEADS


@pytest.mark.parametrize("cls", sorted(HEADS, key=str))
def test_methods_with_heads_ask_for_them(make_trainer, cls):
    with pytest.raises(ValueError, match="unimodal_heads=True"):
        make_trainer(cls=cls)
