"""Loads the shared fixtures where tests run: the process that starts two others would import torch for nothing."""


def pytest_configure(config):
    if not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")
