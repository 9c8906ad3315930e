"""Benchmarks. They measure ratios of speeds within one run. `make bench` runs all of them."""
