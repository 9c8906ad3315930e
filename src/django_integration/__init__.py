"""Django's side: reads settings, composes core and adapters, sends signals."""
