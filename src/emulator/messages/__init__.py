"""Conversions between the protobuf messages of the API and the values of the emulator's state."""
