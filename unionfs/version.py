"""The version, stated once: pyproject.toml and the commands read it here."""

VERSION = "0.1.0"
