"""Helpers for the tests of sites: captured tasks, the emulator, fixtures and test cases."""
