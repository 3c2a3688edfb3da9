"""Tables in Markdown."""


def table(header, lines):
    """A table of a header and lines, sequences of equal length of what is shown as text.

    >>> print(table(["norm", "error"], [["bn", 0.1]]))
    | norm | error |
    | --- | --- |
    | bn | 0.1 |
    """
    rows = ([str(cell).replace("|", "/") for cell in line] for line in (header, *lines))
    header, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "| --- " * header.count(" | ") + "| --- |", *lines])
