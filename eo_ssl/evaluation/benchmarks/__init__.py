"""Public benchmarks as tasks: bands by name, physical quantity, the published split, the published layout of files."""

from eo_ssl.evaluation.benchmarks.registry import BENCHMARKS, Benchmark, load_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]
