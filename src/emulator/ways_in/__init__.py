"""The servers for incoming requests: gRPC, REST, the dashboard and the keys of OIDC tokens."""
