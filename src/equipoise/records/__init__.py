"""Evaluation records: schema, files, statistics. Never imports torch."""

from equipoise.evaluation.statistics import wilson_interval
from equipoise.records.files import iterate_records, read_record

__all__ = ["iterate_records", "read_record", "wilson_interval"]
