"""Evaluation records: schema, files, strengths. Never imports torch."""

from equipoise.records.files import iterate_records, read_record

__all__ = ["iterate_records", "read_record"]
