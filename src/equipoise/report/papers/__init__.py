"""The papers' tables and figures, each one declarative value; drawn and printed without torch."""

from equipoise.report.papers.catalogue import ENTRIES as ENTRIES
from equipoise.report.papers.catalogue import find_entries as find_entries
from equipoise.report.papers.entry import Entry as Entry
from equipoise.report.papers.entry import Figure as Figure
from equipoise.report.papers.entry import Table as Table
from equipoise.report.papers.measured import Result as Result
from equipoise.report.papers.measured import Results as Results
from equipoise.report.papers.pages import write_entry as write_entry
from equipoise.report.papers.pages import write_index as write_index
from equipoise.report.papers.scales import SCALES as SCALES
from equipoise.report.papers.scales import Scale as Scale
from equipoise.report.papers.scales import recipe_of as recipe_of
from equipoise.report.papers.scales import recipes_of as recipes_of
from equipoise.report.papers.tables import rich_entry as rich_entry
