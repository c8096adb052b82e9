"""Tables as users have them: one reader, of columns, numbers and dates; one writer.

The room is on the ground floor: it knows nothing of cubes or photos, so that geobiomass
and pasture read tables in one way.
"""

from geobiomass.tables.columns import TableError, find_column, match_column
from geobiomass.tables.dates import read_dates
from geobiomass.tables.files import TABLES, VECTORS, is_table, read_table
from geobiomass.tables.numbers import read_numbers
from geobiomass.tables.writing import write_csv

__all__ = [
    "TABLES",
    "VECTORS",
    "TableError",
    "find_column",
    "is_table",
    "match_column",
    "read_dates",
    "read_numbers",
    "read_table",
    "write_csv",
]
