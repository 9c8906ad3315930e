"""The integration with Django: it reads settings, and composes the core and the adapters."""
