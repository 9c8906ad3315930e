"""A module that cannot be imported."""

raise ValueError("no settings for this module")
