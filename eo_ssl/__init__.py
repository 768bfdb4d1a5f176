"""eo_ssl: raw Sentinel archives -> a curated corpus -> an encoder -> a benchmark number one can believe."""

__version__ = "0.1.0"
