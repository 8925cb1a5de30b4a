"""Evaluation records: schema, files, statistics. Never imports torch."""

from equipoise.records.files import iterate_records, read_record
from equipoise.evaluation.statistics import wilson_interval

__all__ = ["iterate_records", "read_record", "wilson_interval"]
