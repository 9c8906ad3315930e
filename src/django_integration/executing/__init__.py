"""What a delivery leads to: who calls, which task, one attempt at it, its answer."""
