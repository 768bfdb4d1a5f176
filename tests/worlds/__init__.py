"""Generators of what real archives and benchmarks deliver, with known truth: for tests and benchmarks, not shipped."""
