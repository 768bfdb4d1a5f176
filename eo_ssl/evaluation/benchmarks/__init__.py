"""Public benchmarks as tasks: bands by name, physical quantity, the split in words, read in the layout in which each is published."""

from eo_ssl.evaluation.benchmarks.registry import BENCHMARKS, Benchmark, load_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]
