# SPDX-License-Identifier: LGPL-2.1-or-later
"""The overlay as an IRON design (Xilinx/mlir-aie, Python), from the description in kernels/overlay.h.

Everything is placed by hand: the host's streams name the channels. Fifos are declared A, B, C, because the compiler
gives out channels and the memory tiles' descriptors in that order, and another order would leave no odd descriptor free
on one column.
"""

import numpy as np
from aie.helpers.taplib import TensorAccessPattern
from aie.iron import Buffer, Kernel, ObjectFifo, Program, Runtime, TaskGroup, Worker
from aie.iron.controlflow import range_
from aie.iron.device import NPU2, NPU2Col1, Tile

SHIM_ROW, MEMTILE_ROW, CORE_ROW = 0, 1, 2
# The product whose transfers the design's own sequence makes: (512, 512, 512) with an output of two planes. The host
# makes its own streams; this one is for comparing the compiler's with them.
SEQUENCE_M, SEQUENCE_K, SEQUENCE_N, SEQUENCE_PLANES = 512, 512, 512, 2


def int8s(count):
    return np.ndarray[(count,), np.dtype[np.int8]]


def int32s(count):
    return np.ndarray[(count,), np.dtype[np.int32]]


def core_program(a, b, c, sums, parameters, step, requantize, gelu, write_first, write_second, rest, more):
    """One output tile; the worker repeats it for ever. All counts are loaded from START's tail, which step() has
    copied.

    No fifo is acquired under a condition: that was seen to build and to give wrong results.
    """

    def one_step():
        weights = b.acquire(1)
        rows = a.acquire(1)
        step(rows, weights, sums, parameters)
        a.release(1)
        b.release(1)

    one_step()
    for _ in range_(parameters[rest]):
        one_step()
    requantize(sums, parameters)
    gelu(sums, parameters)
    first = c.acquire(1)
    write_first(sums, parameters, first)
    c.release(1)
    for _ in range_(parameters[more]):
        second = c.acquire(1)
        write_second(sums, second)
        c.release(1)


def kernels(d):
    """The core programs, each an object of its own (core.h says why). Types must be those of core.h: nothing checks
    them."""
    sums, parameters = int32s(d["tile_m"] * d["tile_n"]), int32s(d["tail"] // 4)
    a, b, c = int8s(d["a_share"]), int8s(d["b_object"]), int8s(d["c_segment"])
    return [
        Kernel("gemm_step", "gemm_step.o", [a, b, sums, parameters]),
        Kernel("gemm_requantize", "gemm_requantize.o", [sums, parameters]),
        Kernel("gemm_gelu", "gemm_gelu.o", [sums, parameters]),
        Kernel("gemm_write_first", "gemm_write_first.o", [sums, parameters, c]),
        Kernel("gemm_write_second", "gemm_write_second.o", [sums, c]),
    ]


def design(d, variant):
    """Returns the resolved program: an MLIR module, or what a stand-in of IRON makes of it. d: the description."""
    columns, rows, depth = variant["columns"], d["core_rows"], d["depth"]
    a_share, b_object, c_segment = d["a_share"], d["b_object"], d["c_segment"]

    a_to_memtile, a_to_cores = [], []
    for stream, (column, _, _) in enumerate(variant["a_channels"]):
        fifo = ObjectFifo(int8s(variant["a_object"]), depth=depth, name=f"A_L3L2_{stream}")
        a_to_memtile.append(fifo)
        shares = variant["a_object"] // a_share
        if shares == 1:
            a_to_cores.append(
                fifo.cons().forward(
                    tile=Tile(column, MEMTILE_ROW),
                    obj_type=int8s(a_share),
                    depth=depth,
                    name=f"A_L2L1_{stream}",
                    dims_to_stream=d["a_walk"],
                )
            )
        else:
            a_to_cores += fifo.cons().split(
                [share * a_share for share in range(shares)],
                tile=Tile(column, MEMTILE_ROW),
                depths=[depth] * shares,
                obj_types=[int8s(a_share)] * shares,
                names=[f"A_L2L1_{share}" for share in range(shares)],
                dims_to_stream=[d["a_walk"]] * shares,
            )

    b_to_memtile, b_to_cores = [], []
    for column in range(columns):
        fifo = ObjectFifo(int8s(b_object), depth=depth, name=f"B_L3L2_{column}")
        b_to_memtile.append(fifo)
        b_to_cores.append(
            fifo.cons().forward(
                tile=Tile(column, MEMTILE_ROW), obj_type=int8s(b_object), depth=depth, name=f"B_L2L1_{column}"
            )
        )

    c_to_host, c_from_cores = [], []
    for column in range(columns):
        # The walk applies to each core's segment.
        fifo = ObjectFifo(int8s(d["c_object"]), depth=depth, name=f"C_L2L3_{column}", dims_to_stream=d["c_walk"])
        c_to_host.append(fifo)
        c_from_cores.append(
            fifo.prod().join(
                [row * c_segment for row in range(rows)],
                tile=Tile(column, MEMTILE_ROW),
                depths=[d["core_c_depth"]] * rows,
                obj_types=[int8s(c_segment)] * rows,
                names=[f"C_L1L2_{column}_{row}" for row in range(rows)],
            )
        )

    programs = kernels(d)
    workers = []
    for column in range(columns):
        for row in range(rows):
            workers.append(
                Worker(
                    core_program,
                    [
                        a_to_cores[row].cons(),
                        b_to_cores[column].cons(),
                        c_from_cores[column][row].prod(),
                        Buffer(int32s(d["tile_m"] * d["tile_n"]), name=f"sums_{column}_{row}"),
                        Buffer(int32s(d["tail"] // 4), name=f"parameters_{column}_{row}"),
                        *programs,
                        d["rest_at"] // 4,
                        d["more_at"] // 4,
                    ],
                    tile=Tile(column, CORE_ROW + row),
                    # The default of 1024 bytes was seen to overflow into buffers without a word.
                    stack_size=d["core_stack"],
                )
            )

    m, k, n, planes = SEQUENCE_M, SEQUENCE_K, SEQUENCE_N, SEQUENCE_PLANES
    row_blocks, steps, blocks = m // d["row_block"], k // d["tile_k"], n // variant["n_block"]
    pitch = n * planes
    a_rows = variant["a_object"] // d["tile_k"]
    column_bytes = blocks * steps * b_object

    def sequence(a, w, c, *more):
        """Row blocks outermost. Sizes and strides in bytes, outermost first."""
        a_handles, b_handles, c_handles = more[-3:]
        for row_block in range(row_blocks):
            group = TaskGroup()
            for stream, handle in enumerate(a_handles):
                offset = (row_block * d["row_block"] + stream * a_rows) * k
                tap = TensorAccessPattern(
                    (m * k,), offset, [blocks, steps, a_rows, d["tile_k"]], [0, d["tile_k"], k, 1]
                )
                handle.fill(a, tap=tap, group=group)
            for column, handle in enumerate(b_handles):
                # An object is four runs: one would be longer than a descriptor's inner dimension.
                tap = TensorAccessPattern(
                    (columns * column_bytes,),
                    column * column_bytes,
                    [1, blocks * steps, 4, b_object // 4],
                    [0, b_object, b_object // 4, 1],
                )
                handle.fill(w, tap=tap, group=group)
            for column, handle in enumerate(c_handles):
                offset = row_block * d["row_block"] * pitch + column * d["tile_n"]
                sizes = [blocks, planes, d["row_block"], d["tile_n"]]
                tap = TensorAccessPattern((m * pitch,), offset, sizes, [variant["n_block"], n, pitch, 1])
                handle.drain(c, tap=tap, wait=True, group=group)
            # Before the next block's: a queue takes four tasks and drops the fifth.
            group.finish()

    runtime = Runtime(
        sequence,
        [
            int8s(m * k),
            int8s(columns * column_bytes),
            int8s(m * pitch),
            # The compiler gives the kernel as many arguments as there are here; the host's streams use more than this
            # one.
            *[int8s(m * pitch)] * (d["buffer_arguments"] - 3),
            [
                fifo.prod(tile=Tile(column, SHIM_ROW))
                for fifo, (column, _, _) in zip(a_to_memtile, variant["a_channels"])
            ],
            [fifo.prod(tile=Tile(column, SHIM_ROW)) for column, fifo in enumerate(b_to_memtile)],
            [fifo.cons(tile=Tile(column, SHIM_ROW)) for column, fifo in enumerate(c_to_host)],
        ],
    )
    device = NPU2Col1() if columns == 1 else NPU2()
    return Program(device, runtime, workers=workers).resolve_program()
