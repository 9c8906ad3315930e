"""The connections to external systems. Each module implements a port of the core.

The adapters contain no decisions. The core decides.
"""
