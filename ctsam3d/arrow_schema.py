"""A Parquet file of anybody's in; the same file, of which Arrow believes only what Parquet itself says, out."""

_TAIL_BYTES = 8  # of every Parquet file: the footer's length and a magic
_ARROW_SCHEMA = b"ARROW:schema"


def without_arrow_schema(data: bytes) -> bytes:
    """The file with another name for Arrow's own schema in its footer.

    On opening a file Arrow makes the types which that schema names, and lets whatever is registered for an extension
    type unpack what the file says of it; leaving extension types out of the tables does not keep it from that. What
    is no Parquet file comes back as it is.
    """
    start = len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    if start < 0 or _ARROW_SCHEMA not in data[start:]:
        return data
    return data[:start] + data[start:].replace(_ARROW_SCHEMA, b"-" * len(_ARROW_SCHEMA))
