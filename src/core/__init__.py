"""The core: values, and decisions about tasks.

The core has no side effects. It receives the time, ids, the environment and external responses as
arguments, and returns frozen values. A decision that needs more data requests it from its caller.
`ports` defines the protocols of the adapters; the core does not call them. The core imports only
attrs and modules of the standard library that do no input or output. Tests check the imports.
"""
