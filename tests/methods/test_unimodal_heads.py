"""Methods that need a head for each modality."""

import pytest
from helpers.all_methods import WITH_HEADS


@pytest.mark.parametrize("cls", sorted(WITH_HEADS, key=str))
def test_methods_with_heads_ask_for_them(make_trainer, cls):
    with pytest.raises(ValueError, match="unimodal_heads=True"):
        make_trainer(cls=cls)
