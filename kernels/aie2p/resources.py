#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a design fits the array, before any compiler is asked, and if not, what is full and why.

    resources.py DESCRIPTION       tables for the overlays of kernels/overlay.h, as describe.cpp prints it
    resources.py --unrolled N      for a generator that keeps a fifo element for each tile of N (fails at 2048: see
                                   unrolled())

Limits are those of AIE2P in Xilinx/mlir-aie: include/aie/Dialect/AIE/IR/AIETargetModel.h and lib/Dialect/AIE/IR/ for
tiles, lib/Dialect/AIEX/IR/AIEXDialect.cpp for descriptors; how many descriptors and locks a fifo takes:
docs/ObjectFifoLowering.md. What only a compiler knows is estimated and says so.
"""

import argparse
import dataclasses
import json
import sys

WORD = 4
MEMTILE_ROW, CORE_ROW = 1, 2
CORE_MEMORY, CORE_BANK, CORE_PROGRAM = 65536, 16384, 16384
MEMTILE_MEMORY, MEMTILE_BANK = 524288, 65536
# (descriptors, locks, channels in, channels out, largest size of a dimension, largest step in words, dimensions)
LIMITS = {
    "core": (16, 16, 2, 2, 255, 1 << 13, 3),
    "memtile": (48, 64, 6, 6, 1023, 1 << 17, 4),
    "shim": (16, 16, 2, 2, 1023, 1 << 20, 3),
}
MEMTILE_HALF = 24  # even channels of a memory tile reach descriptors 0..23 only, odd ones 24..47
# Streams that a switch can send to its neighbor in each direction. Memory tiles have no neighbors east and west.
STREAMS = {"north": 6, "south": 4, "east": 4, "west": 4}
ALIGNMENT = 64
# Bytes of program memory, by the size of comparable public kernels: not measured.
PROGRAM_ESTIMATE = {"gemm_step": 2048, "outputs": 3072, "gemm_gelu": 1024, "worker and fifos": 2048}


@dataclasses.dataclass
class Fifo:
    """One stream: objects of `size` bytes from a tile (column, row) to one or, as a broadcast, several."""

    name: str
    size: int
    source: tuple
    targets: list
    walk: list = dataclasses.field(default_factory=list)  # (size, stride) in bytes, outermost first; empty: linear
    source_depth: int = 2
    target_depth: int = 2


@dataclasses.dataclass
class Link:
    """Buffers of a memory tile between fifos: `size` bytes, `depth` times. With several inputs (a join) or outputs (a
    split) each has a segment of every buffer."""

    tile: tuple
    size: int
    depth: int
    inputs: list
    outputs: list

    def segments(self):
        return max(len(self.inputs), len(self.outputs))


@dataclasses.dataclass
class Graph:
    """A design: fifos and links in the order in which the compiler meets them, and of each core what is not a fifo."""

    fifos: list
    links: list
    core_buffers: dict  # of a core's tile: [(name, bytes)], the stack first
    columns: int

    def fifo(self, name):
        return next(f for f in self.fifos if f.name == name)


def kind(tile):
    return "shim" if tile[1] == 0 else "memtile" if tile[1] == MEMTILE_ROW else "core"


def name_of(tile):
    return f"{kind(tile)} ({tile[0]}, {tile[1]})"


def from_description(d, variant):
    """The overlay as kernels/overlay.h has it."""
    fifos, links, columns = [], [], variant["columns"]
    depth, rows = d["depth"], d["core_rows"]
    shares = variant["a_object"] // d["a_share"]
    for stream, (column, _, _) in enumerate(variant["a_channels"]):
        memtile = (column, MEMTILE_ROW)
        fifos.append(Fifo(f"A_L3L2_{stream}", variant["a_object"], (column, 0), [memtile]))
        names = []
        for row in range(stream, stream + shares):
            targets = [(c, CORE_ROW + row) for c in range(columns)]
            fifos.append(Fifo(f"A_L2L1_{row}", d["a_share"], memtile, targets, d["a_walk"]))
            names.append(fifos[-1].name)
        links.append(Link(memtile, variant["a_object"], depth, [f"A_L3L2_{stream}"], names))
    for column in range(columns):
        memtile = (column, MEMTILE_ROW)
        fifos.append(Fifo(f"B_L3L2_{column}", d["b_object"], (column, 0), [memtile]))
        fifos.append(Fifo(f"B_L2L1_{column}", d["b_object"], memtile, [(column, CORE_ROW + r) for r in range(rows)]))
        links.append(Link(memtile, d["b_object"], depth, [f"B_L3L2_{column}"], [f"B_L2L1_{column}"]))
    for column in range(columns):
        memtile = (column, MEMTILE_ROW)
        names = []
        for row in range(rows):
            fifos.append(
                Fifo(
                    f"C_L1L2_{column}_{row}",
                    d["c_segment"],
                    (column, CORE_ROW + row),
                    [memtile],
                    source_depth=d["core_c_depth"],
                )
            )
            names.append(fifos[-1].name)
        fifos.append(Fifo(f"C_L2L3_{column}", d["c_object"], memtile, [(column, 0)], d["c_walk"]))
        links.append(Link(memtile, d["c_object"], depth, names, [f"C_L2L3_{column}"]))
    buffers = {
        (column, CORE_ROW + row): [
            ("stack", d["core_stack"]),
            (f"sums_{column}_{row}", d["tile_m"] * d["tile_n"] * 4),
            (f"parameters_{column}_{row}", d["tail"]),
            ("tables", d["core_tables"]),
        ]
        for column in range(columns)
        for row in range(rows)
    }
    return Graph(fifos, links, buffers, columns)


def unrolled(n):
    """How the Python prototype's four-core generator, whose 512x512x2048 did not compile ("no space for this BD"), has
    to be imagined: tiles of 64x64x64 in int8, and an element of B's fifo for every tile of N. Its source is not public;
    what is known is that 512x512x512 compiled and N = 2048 did not."""
    tile, rows = 64 * 64, 4
    memtile, cores = (0, MEMTILE_ROW), [(0, CORE_ROW + row) for row in range(rows)]
    names = [f"A_L2L1_{row}" for row in range(rows)]
    fifos = [Fifo("A_L3L2", rows * tile, (0, 0), [memtile])]
    fifos += [Fifo(name, tile, memtile, [core]) for name, core in zip(names, cores)]
    fifos += [Fifo("B_L3L2", tile, (0, 0), [memtile]), Fifo("B_L2L1", tile, memtile, cores)]
    outputs = [f"C_L1L2_{row}" for row in range(rows)]
    fifos += [Fifo(name, tile, core, [memtile], source_depth=1) for name, core in zip(outputs, cores)]
    fifos += [Fifo("C_L2L3", rows * tile, memtile, [(0, 0)])]
    links = [
        Link(memtile, rows * tile, 2, ["A_L3L2"], names),
        Link(memtile, tile, n // 64, ["B_L3L2"], ["B_L2L1"]),
        Link(memtile, rows * tile, 1, outputs, ["C_L2L3"]),
    ]
    return Graph(fifos, links, {core: [("stack", 1024)] for core in cores}, 1)


class Report:
    """Rows of (what, used, limit, remark), and what is wrong in sentences."""

    def __init__(self):
        self.rows, self.errors = [], []

    def limit(self, what, used, limit, explain, remark=""):
        self.rows.append((what, used, limit, remark))
        if used > limit:
            self.errors.append(f"{what}: {used} of {limit}. {explain}")

    def require(self, holds, sentence):
        if not holds:
            self.errors.append(sentence)

    def text(self):
        """The largest use of each resource of each kind of tile."""
        most = {}
        for what, used, limit, remark in self.rows:
            key = what.split(")", 1)[-1].strip() if "(" in what else what
            group = f"{what.split(' (')[0]}: {key}" if "(" in what else key
            if group not in most or used > most[group][0]:
                most[group] = (used, limit, what if "(" in what else "", remark)
        lines = [f"{'resource':44} {'used':>8} {'limit':>8}  where it is tightest"]
        for group, (used, limit, where, remark) in most.items():
            place = where.split(")")[0] + ")" if where else ""
            lines.append(f"{group:44} {used:>8} {limit:>8}  {place}{' ' if place and remark else ''}{remark}")
        lines += [f"does not fit: {error}" for error in self.errors]
        return "\n".join(lines)


def check_core(report, graph, tile):
    bds, locks, inputs, outputs, *_ = LIMITS["core"]
    into = [f for f in graph.fifos if tile in f.targets]
    out = [f for f in graph.fifos if f.source == tile]
    name = name_of(tile)
    report.limit(f"{name} channels in", len(into), inputs, "Carry two inputs in one object.")
    report.limit(f"{name} channels out", len(out), outputs, "Write two outputs to one fifo.")
    depth = sum(f.target_depth for f in into) + sum(f.source_depth for f in out)
    report.limit(f"{name} descriptors", depth, bds, "One for each buffer of each fifo: lower a depth.")
    report.limit(f"{name} locks", 2 * (len(into) + len(out)), locks, "Two for each fifo.")
    buffers = graph.core_buffers[tile] + [(f.name, f.size) for f in into for _ in range(f.target_depth)]
    buffers += [(f.name, f.size) for f in out for _ in range(f.source_depth)]
    total = sum(size for _, size in buffers)
    listed = ", ".join(f"{name} {size}" for name, size in buffers)
    report.limit(f"{name} bytes", total, CORE_MEMORY, f"It holds {listed}.", f"{CORE_MEMORY - total} left for .data")
    for what, size in buffers:
        report.require(size % ALIGNMENT == 0, f"{name}: {what} has {size} bytes, which misaligns what follows it")


def check_memtile(report, graph, tile):
    bds, locks, inputs, outputs, *_ = LIMITS["memtile"]
    links = [link for link in graph.links if link.tile == tile]
    name = name_of(tile)
    channels_in = [(fifo, link) for link in links for fifo in link.inputs]
    channels_out = [(fifo, link) for link in links for fifo in link.outputs]
    report.limit(f"{name} channels in", len(channels_in), inputs, "Join fewer fifos in this column.")
    report.limit(f"{name} channels out", len(channels_out), outputs, "Split into fewer fifos in this column.")
    # Channel numbers are given out in order. A fifo alone on its side of the link serves all segments of each buffer.
    halves, uses = [0, 0], []
    for channels, side in ((channels_in, "inputs"), (channels_out, "outputs")):
        for number, (fifo, link) in enumerate(channels):
            count = link.depth * (link.segments() if len(getattr(link, side)) == 1 else 1)
            halves[number % 2] += count
            uses.append(f"{fifo} {count}")
    explain = '"no space for this BD": each buffer, and each segment of a joined or split one, takes one ' \
              f'({", ".join(uses)}). '
    explain += "Bytes are not what is full; use fewer, larger objects."
    report.limit(f"{name} descriptors", sum(halves), bds, explain)
    for parity, half in zip(("even", "odd"), halves):
        report.limit(f"{name} descriptors of {parity} channels", half, MEMTILE_HALF, explain)
    report.limit(f"{name} locks", sum(2 * link.segments() for link in links), locks, "Two for each segment.")
    total = sum(link.size * link.depth for link in links)
    remark = f"banks of {MEMTILE_BANK}: {-(-total // MEMTILE_BANK)} of {MEMTILE_MEMORY // MEMTILE_BANK} used"
    report.limit(f"{name} bytes", total, MEMTILE_MEMORY, "Lower a depth.", remark)
    for link in links:
        for side in (link.inputs, link.outputs):
            sizes = [graph.fifo(fifo).size for fifo in side]
            report.require(
                sum(sizes) == link.size,
                f"{name}: the fifos {', '.join(side)} do not tile their buffer: data would vanish",
            )


def check_shim(report, graph, tile):
    _, _, inputs, outputs, *_ = LIMITS["shim"]
    name = name_of(tile)
    report.limit(
        f"{name} channels to the array", sum(f.source == tile for f in graph.fifos), outputs, "Use another column."
    )
    report.limit(
        f"{name} channels from the array", sum(tile in f.targets for f in graph.fifos), inputs, "Use another column."
    )


def check_streams(report, graph):
    """Streams between neighboring switches, routed up or down the source's column and then along the row."""
    used = {}
    for fifo in graph.fifos:
        steps = set()  # a broadcast goes over each link once
        for target in fifo.targets:
            (column, row), (to_column, to_row) = fifo.source, target
            while row != to_row:
                steps.add((column, row, "north" if to_row > row else "south"))
                row += 1 if to_row > row else -1
            while column != to_column:
                steps.add((column, row, "east" if to_column > column else "west"))
                column += 1 if to_column > column else -1
        for step in steps:
            used[step] = used.get(step, 0) + 1
    for (column, row, direction), count in sorted(used.items()):
        report.limit(
            f"{name_of((column, row))} streams {direction}", count, STREAMS[direction], "Move a fifo to another column."
        )


def words(walk):
    """A walk in bytes as the descriptor's dimensions in words, outermost first."""
    run, unit = walk[-1]
    if unit != 1 or run % WORD or any(stride % WORD for _, stride in walk[:-1]):
        return None
    return [(size, stride // WORD) for size, stride in walk[:-1]] + [(run // WORD, 1)]


def check_walks(report, graph):
    for fifo in graph.fifos:
        if not fifo.walk:
            continue
        *_, most_size, most_step, most_dimensions = LIMITS[kind(fifo.source)]
        dimensions = words(fifo.walk)
        report.require(dimensions is not None, f"{fifo.name}: a walk that does not move whole words")
        if dimensions is None:
            continue
        name = name_of(fifo.source)
        report.limit(f"{name} dimensions of a walk", len(dimensions), most_dimensions, f"{fifo.name} has {dimensions}.")
        report.limit(
            f"{name} largest size in a walk", max(s for s, _ in dimensions), most_size, f"{fifo.name}: {dimensions}."
        )
        report.limit(
            f"{name} largest step in a walk", max(s for _, s in dimensions), most_step, f"{fifo.name}: {dimensions}."
        )
        total = 1
        for size, _ in fifo.walk:
            total *= size
        # The joined fifo's walk is that of one segment.
        segments = {link.segments() for link in graph.links if link.outputs == [fifo.name]} or {1}
        report.require(total * max(segments) == fifo.size, f"{fifo.name}: its walk covers {total} of {fifo.size} bytes")


def check_graph(graph):
    """The static part: everything that is compiled in."""
    report = Report()
    for tile in sorted(graph.core_buffers):
        check_core(report, graph, tile)
    for tile in sorted({link.tile for link in graph.links}):
        check_memtile(report, graph, tile)
    for column in range(graph.columns):
        check_shim(report, graph, (column, 0))
    check_streams(report, graph)
    check_walks(report, graph)
    return report


def check_shape(report, d, variant, m, k_bytes, n, planes):
    """A product's transfers as kernels/overlay.h allows them: whole objects, and descriptors within their ranges."""
    what = f"{m}x{k_bytes}x{n}, {planes} plane{'s' if planes > 1 else ''}"
    for value, unit, name in ((m, d["row_block"], "M"), (k_bytes, d["tile_k"], "K"), (n, variant["n_block"], "N")):
        report.require(value % unit == 0, f"{what}: {name} = {value} is no multiple of {unit}: pad it")
    row_blocks, blocks, steps = m // d["row_block"], n // variant["n_block"], k_bytes // d["tile_k"]
    pitch = n * planes
    _, _, _, _, most_size, most_step, _ = LIMITS["shim"]
    a_rows = variant["a_object"] // d["tile_k"]
    sizes = {"A": max(a_rows, d["tile_k"] // WORD), "C": max(d["row_block"], d["tile_n"] // WORD)}
    steps_in_words = {"A": max(k_bytes, d["row_block"] * k_bytes) // WORD, "C": max(d["row_block"] * pitch, n) // WORD}
    for operand in ("A", "C"):
        report.limit(f"shim sizes of {operand}", sizes[operand], most_size, what, what)
        report.limit(f"shim steps of {operand} in words", steps_in_words[operand], most_step, f"{what}: split N.", what)
    # One loop is a descriptor's third dimension, which has no limit, or a repeat; the other its iteration.
    report.limit("shim iterations", max(row_blocks, blocks), d["max_iterations"], what, what)
    words_of_w = blocks * steps * d["b_object"] // WORD
    report.require(words_of_w < 1 << 32, f"{what}: a column's weights are longer than a descriptor can say")


def check_tasks(report, d):
    """The host issues a product in groups of at most this many tasks an operand, each with a descriptor of its own."""
    report.limit(
        "shim tasks in a queue", d["tasks_per_operand"], d["queue_depth"], "A fifth is dropped without a word."
    )
    report.limit(
        "shim live descriptors", 3 * d["tasks_per_operand"], LIMITS["shim"][0], "Use fewer tasks a group.", "A, B and C"
    )


def check_program(report):
    total = sum(PROGRAM_ESTIMATE.values())
    report.limit(
        "core program, estimated", total, CORE_PROGRAM, "Build with -Os or fewer unrolled loops.", "not measured"
    )


def model_shapes():
    """(M, K in bytes, N, planes) of the products of tiny, base and small, padded, at 512 and 1500 positions."""
    for width in (384, 512, 768):
        padded = -(-width // 512) * 512
        for m in (512, 1536):
            yield m, width, -(-3 * width // 512) * 512, 1
            yield m, width, padded, 2
            yield m, width, 4 * width, 2
            yield m, 2 * 4 * width, padded, 2


def check_overlay(d, variant):
    report = check_graph(from_description(d, variant))
    for shape in model_shapes():
        check_shape(report, d, variant, *shape)
    check_tasks(report, d)
    check_program(report)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description", nargs="?", help="the JSON of describe.cpp")
    parser.add_argument("--unrolled", type=int, metavar="N")
    arguments = parser.parse_args()
    reports = {}
    if arguments.unrolled:
        reports[f"a fifo element for each tile of N = {arguments.unrolled}"] = check_graph(unrolled(arguments.unrolled))
    elif arguments.description:
        with open(arguments.description, encoding="utf-8") as file:
            d = json.load(file)
        for variant in d["variants"]:
            reports[variant["identity"]] = check_overlay(d, variant)
    else:
        parser.error("name a description, or --unrolled N")
    for title, report in reports.items():
        print(f"{title}\n{report.text()}\n")
    sys.exit(any(report.errors for report in reports.values()))


if __name__ == "__main__":
    main()
