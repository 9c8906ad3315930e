"""One module for each thing outside. Each implements a port of the core; none decides."""
