"""Records of every format as Samples, with their place; what cannot be read is counted, not raised.

- conversation, records: one record as a Sample; sources: the rows of a file of any format;
- whole: all samples of a layout, one after the other, in this process;
- pieces, pool, child: a large file in pieces, on all cores.

Standard library only, Python 3.9 or newer (pyarrow for Parquet).
"""

from labs.doctors.data.reading.whole import reader, samples

__all__ = ["reader", "samples"]
