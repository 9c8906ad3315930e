"""A test checks that this module is not imported before its caller is authorized."""
