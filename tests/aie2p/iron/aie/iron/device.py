import dataclasses


@dataclasses.dataclass(frozen=True)
class Tile:
    col: int
    row: int


class NPU2:
    cols, rows = 8, 6


class NPU2Col1:
    cols, rows = 1, 6
