"""The model that a script builds from its arguments."""

import pytest

from pmr_hf import CGMNISTConfig
from pmr_hf.command_line.build import build_model
from pmr_hf.command_line.script_arguments import ScriptArguments


@pytest.mark.parametrize(("given", "expected"), [(None, True), (True, True), (False, False)])
def test_channels_last_reaches_the_model(given, expected):
    args = ScriptArguments(channels_last=given)
    model = build_model(args, {"gray": CGMNISTConfig(num_channels=1, hidden_size=4)}, ["a", "b"])
    assert model.channels_last is given and model.reads_channels_last("gray") == expected
