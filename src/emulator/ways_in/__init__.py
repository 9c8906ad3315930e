"""How requests reach the emulator: gRPC, REST, the dashboard and the keys of its tokens."""
