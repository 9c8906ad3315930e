"""Conversions between the protobuf messages of the API and the objects of the emulator's state."""
