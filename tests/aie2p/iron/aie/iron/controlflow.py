def range_(stop):
    """In the real IRON a loop that the core executes; here Python executes it."""
    return range(int(stop))
