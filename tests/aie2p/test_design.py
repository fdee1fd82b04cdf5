#!/usr/bin/env python3
"""The overlay's design without the tools that compile it: what it asks IRON for, recorded, against the description in
kernels/overlay.h; what that takes of the array; the limits that would be passed; and the design executed, with the core
programs as its kernels. Arguments: the program that prints the description, the source root, a library of the core
programs.
"""

import collections
import copy
import ctypes
import json
import math
import pathlib
import subprocess
import sys
import unittest

DESCRIBE, ROOT, CORES = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
sys.path[:0] = [str(ROOT / "kernels/aie2p"), str(ROOT / "tests/aie2p/iron")]
# pylint: disable=wrong-import-position
import gemm
import numpy as np
import resources
from aie import iron

DESCRIPTION = json.loads(subprocess.run([DESCRIBE], check=True, capture_output=True, text=True).stdout)
VARIANTS = {variant["name"]: variant for variant in DESCRIPTION["variants"]}


def graph_of(program):
    """What was recorded, in the checker's terms."""

    def place(tile):
        return (tile.col, tile.row)

    fifos = [
        resources.Fifo(
            fifo.name,
            iron.bytes_of(fifo.obj_type),
            place(fifo.producer.tile),
            [place(consumer.tile) for consumer in fifo.consumers],
            fifo.dims_to_stream or [],
            fifo.producer.depth,
            # A joined fifo's elements in the memory tile are those of the fifo that it joins.
            max(link.outputs[0].depth if fifo in link.inputs else fifo.depth for link in program.links),
        )
        for fifo in program.fifos
    ]
    links = [
        resources.Link(
            place(link.tile),
            max(iron.bytes_of(fifo.obj_type) for fifo in link.inputs + link.outputs),
            max(fifo.depth for fifo in link.inputs + link.outputs),
            [fifo.name for fifo in link.inputs],
            [fifo.name for fifo in link.outputs],
        )
        for link in program.links
    ]
    buffers = {
        place(worker.tile): [("stack", worker.stack_size)]
        + [(b.name, iron.bytes_of(b.type)) for b in worker.fn_args if isinstance(b, iron.Buffer)]
        for worker in program.workers
    }
    return resources.Graph(fifos, links, buffers, program.device.cols)


def runs_of(tap):
    """Where each contiguous run of a transfer begins."""
    assert tap.strides[3] == 1
    (a, b, c), (x, y, z) = tap.sizes[:3], tap.strides[:3]
    return [tap.offset + i * x + j * y + k * z for i in range(a) for j in range(b) for k in range(c)]


def by_name(items):
    return {item.name: item for item in items}


class Design(unittest.TestCase):
    def each(self):
        for variant in VARIANTS.values():
            yield variant, gemm.design(DESCRIPTION, variant)

    def test_fifos_links_and_cores_are_the_descriptions(self):
        for variant, program in self.each():
            recorded, expected = graph_of(program), resources.from_description(DESCRIPTION, variant)
            self.assertEqual(by_name(recorded.fifos), by_name(expected.fifos))
            self.assertEqual(recorded.links, expected.links)
            tables = ("tables", DESCRIPTION["core_tables"])
            self.assertEqual({tile: [*b, tables] for tile, b in recorded.core_buffers.items()}, expected.core_buffers)
            self.assertEqual(recorded.columns, expected.columns)

    def test_channels_are_given_out_as_the_host_expects(self):
        """Per shim and direction in the order of declaration."""
        for variant, program in self.each():
            numbers, given = {}, {}
            for fifo in program.fifos:
                ends = [(fifo.producer, "MM2S")] + [(consumer, "S2MM") for consumer in fifo.consumers]
                for end, direction in ends:
                    if end.tile.row == 0:
                        key = (end.tile.col, direction)
                        given[fifo.name] = [*key, numbers.get(key, 0)]
                        numbers[key] = numbers.get(key, 0) + 1
            for prefix, channels in (("A_L3L2", "a"), ("B_L3L2", "b"), ("C_L2L3", "c")):
                for number, channel in enumerate(variant[f"{channels}_channels"]):
                    self.assertEqual(given[f"{prefix}_{number}"], channel)

    def test_sequence_moves_whole_objects_of_the_right_bytes(self):
        """In every group each core gets as many objects of A as of B, and C is what they make."""
        m, k, n, planes = gemm.SEQUENCE_M, gemm.SEQUENCE_K, gemm.SEQUENCE_N, gemm.SEQUENCE_PLANES
        row_block, tile_n = DESCRIPTION["row_block"], DESCRIPTION["tile_n"]
        for variant, program in self.each():
            blocks, steps = range(n // variant["n_block"]), range(k // DESCRIPTION["tile_k"])
            a_rows = variant["a_object"] // DESCRIPTION["tile_k"]
            run_of_b = DESCRIPTION["b_object"] // 4
            runs_of_b = range(len(blocks) * len(steps) * 4)
            self.assertEqual(len(program.groups), m // row_block)
            for number, group in enumerate(program.groups):
                top = number * row_block
                self.assertEqual(len(group), len(variant["a_channels"]) + 2 * variant["columns"])
                for handle in group:
                    operand, place = handle.fifo.name[0], int(handle.fifo.name.split("_")[-1])
                    expected = {
                        "A": lambda: [
                            (top + place * a_rows + i) * k + step * DESCRIPTION["tile_k"]
                            for _ in blocks
                            for step in steps
                            for i in range(a_rows)
                        ],
                        "B": lambda: [(place * len(runs_of_b) + i) * run_of_b for i in runs_of_b],
                        "C": lambda: [
                            (top + i) * n * planes + plane * n + block * variant["n_block"] + place * tile_n
                            for block in blocks
                            for plane in range(planes)
                            for i in range(row_block)
                        ],
                    }[operand]()
                    tap, wait = handle.transfers[number]
                    self.assertEqual(runs_of(tap), expected, handle.fifo.name)
                    self.assertEqual(tap.elements() % iron.bytes_of(handle.fifo.obj_type), 0)
                    self.assertEqual(wait, operand == "C")
                    for size, stride in zip(tap.sizes[1:], tap.strides[1:]):
                        self.assertLessEqual(size, DESCRIPTION["max_bd_size"] * resources.WORD)
                        self.assertLessEqual(stride, DESCRIPTION["max_bd_step"] * resources.WORD)

    def test_worker_calls_what_the_tail_says(self):
        for _, program in self.each():
            for rest, more in ((0, 0), (3, 1), (31, 1)):
                worker = program.workers[-1]
                parameters = next(
                    b for b in worker.fn_args if isinstance(b, iron.Buffer) and b.name.startswith("parameters")
                )
                parameters.memory = {DESCRIPTION["rest_at"] // 4: rest, DESCRIPTION["more_at"] // 4: more}
                iron.Kernel.calls.clear()
                worker.core_fn(*worker.fn_args)
                names = [name for name, _ in iron.Kernel.calls]
                outputs = ["gemm_requantize", "gemm_gelu", "gemm_write_first"] + ["gemm_write_second"] * more
                self.assertEqual(names, ["gemm_step"] * (1 + rest) + outputs)
                for handle in worker.fn_args:
                    if isinstance(handle, iron.Handle):
                        self.assertEqual(handle.acquired, 0)

    def test_kernels_have_the_types_of_core_h(self):
        """Nothing else would notice: a wrong type is garbage on the array."""
        header = (ROOT / "kernels/aie2p/core.h").read_text(encoding="utf-8")
        for kernel in gemm.kernels(DESCRIPTION):
            declaration = header[header.index(f"void {kernel.name}(") :].split(";")[0]
            declared = [
                part.split("*")[0].replace("const", "").split()[-1] for part in declaration.split("(")[1].split(",")
            ]
            given = [argument.__args__[1].__args__[0].__name__ + "_t" for argument in kernel.arg_types]
            self.assertEqual(given, declared, kernel.name)
            self.assertEqual(kernel.object_file_name, f"{kernel.name}.o")
            self.assertTrue((ROOT / f"kernels/aie2p/{kernel.name}.cpp").exists())
            self.assertLessEqual(len(kernel.arg_types), 4)


def aligned(count, dtype):
    """An array at an address as vectors want it."""
    size = count * np.dtype(dtype).itemsize
    raw = np.zeros(size + resources.ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % resources.ALIGNMENT
    return raw[start : start + size].view(dtype)


def walked(data, walk):
    """Bytes in the order of a walk."""
    places = np.zeros(1, np.int64)
    for size, stride in walk:
        places = (places[:, None] + np.arange(size) * stride).reshape(-1)
    return data[places]


class Executed:
    """A recorded design at work: bytes through its fifos as its walks say, its worker's body on the core programs."""

    def __init__(self, program):
        self.program, self.library = program, ctypes.CDLL(CORES)
        self.waiting = {}  # of a consumer's fifo, per tile: objects
        self.written = collections.defaultdict(list)  # of a producer's fifo: objects
        iron.Kernel.execute = self.call
        for worker in program.workers:
            for argument in worker.fn_args:
                if isinstance(argument, iron.Buffer):
                    argument.memory = aligned(iron.bytes_of(argument.type) // 4, np.int32)
                elif isinstance(argument, iron.Handle):
                    argument.elements = self.element

    def call(self, name, arguments):
        getattr(self.library, name)(*[ctypes.c_void_p(argument.memory.ctypes.data) for argument in arguments])

    def element(self, handle):
        memory = aligned(iron.bytes_of(handle.fifo.obj_type), np.int8)
        if handle is handle.fifo.producer:
            self.written[handle.fifo.name].append(memory)
        else:
            memory[:] = self.waiting[handle.fifo.name, handle.tile].popleft()
        return memory

    def to_cores(self, name, data):
        """From a shim through the memory tile: objects, cut into the outputs' segments, walked."""
        link = next(link for link in self.program.links if link.inputs[0].name == name)
        offset = 0
        for fifo in link.outputs:
            size = iron.bytes_of(fifo.obj_type)
            objects = data.reshape(-1, iron.bytes_of(link.inputs[0].obj_type))[:, offset : offset + size]
            walk = fifo.dims_to_stream or [(size, 1)]
            for consumer in fifo.consumers:
                self.waiting[fifo.name, consumer.tile] = collections.deque(walked(o, walk) for o in objects)
            offset += size

    def from_cores(self, name):
        """What the joined fifo sends on: of each object all segments, each walked."""
        link = next(link for link in self.program.links if link.outputs[0].name == name)
        parts = [self.written.pop(fifo.name) for fifo in link.inputs]
        return np.concatenate(
            [walked(segment, link.outputs[0].dims_to_stream) for object_ in zip(*parts) for segment in object_]
        )

    def run(self, a, w, c):
        tensors = {"A": a, "B": w, "C": c}
        for number, group in enumerate(self.program.groups):
            for handle in group:
                tap, _ = handle.transfers[number]
                places = tap.offset + walked(np.arange(a.size + w.size + c.size), list(zip(tap.sizes, tap.strides)))
                if handle.fifo.name[0] == "C":
                    for worker in self.program.workers:
                        if worker.tile.col == handle.tile.col:
                            inputs = [
                                h for h in worker.fn_args if isinstance(h, iron.Handle) and h is not h.fifo.producer
                            ]
                            while self.waiting[inputs[0].fifo.name, worker.tile]:
                                worker.core_fn(*worker.fn_args)
                            assert not self.waiting[inputs[1].fifo.name, worker.tile]
                    c[places] = self.from_cores(handle.fifo.name)
                else:
                    self.to_cores(handle.fifo.name, tensors[handle.fifo.name[0]][places])
        iron.Kernel.execute = None


def rounded(value, shift, low, high):
    """value / 2^shift, ties to even, as arithmetic.h has it."""
    return np.clip(np.rint(value.astype(np.float64) / (1 << shift)).astype(np.int64), low, high)


class Execution(unittest.TestCase):
    def test_design_on_the_core_programs_gives_the_product(self):
        """(512, 512, 512), int8 to two planes of 16 bits, packed and computed here from the comments of
        kernels/overlay.h."""
        m, k, n = gemm.SEQUENCE_M, gemm.SEQUENCE_K, gemm.SEQUENCE_N
        random = np.random.default_rng(5)
        a = random.integers(-127, 128, (m, k), np.int8)
        weights = random.integers(-127, 128, (n, k), np.int8)
        bias = random.integers(-(1 << 18), 1 << 18, n, np.int32)
        multiplier = random.integers(8192, 32768, n).astype(np.int16)
        s1, s2, steps = 6, 15, k // 128
        sums = a.astype(np.int64) @ weights.T.astype(np.int64) + bias
        expected = rounded(rounded(sums, s1, -32768, 32767) * multiplier, s2, -32768, 32767)
        for name, variant in VARIANTS.items():
            packed = []
            for column in range(variant["columns"]):
                for block in range(n // variant["n_block"]):
                    for step in range(steps):
                        first = block * variant["n_block"] + column * 64
                        part = weights[first : first + 64, step * 128 : step * 128 + 128]
                        packed.append(part.reshape(8, 8, 16, 8).transpose(0, 2, 3, 1).tobytes())
                        head = np.array([0x57585032, step == 0, steps - 1, 1, s1, s2, 1] + [0] * 9, np.int32)
                        tail = (
                            head.tobytes()
                            + bias[first : first + 64].tobytes()
                            + multiplier[first : first + 64].tobytes()
                        )
                        packed.append(tail + bytes(512 - len(tail)))
            w = np.frombuffer(b"".join(packed), np.int8)
            c = np.zeros(m * n * 2, np.int8)
            Executed(gemm.design(DESCRIPTION, variant)).run(a.reshape(-1), w, c)
            planes = c.reshape(m, 2, n)
            joined = planes[:, 0].astype(np.int64) * 256 + planes[:, 1].view(np.uint8)
            self.assertEqual(np.count_nonzero(joined != expected), 0, name)


class Resources(unittest.TestCase):
    def test_both_overlays_fit(self):
        for variant in VARIANTS.values():
            self.assertEqual(resources.check_overlay(DESCRIPTION, variant).errors, [])

    def test_design_takes_what_the_description_takes(self):
        for variant in VARIANTS.values():
            recorded = resources.check_graph(graph_of(gemm.design(DESCRIPTION, variant)))
            self.assertEqual(recorded.errors, [])
            used = {what: used for what, used, *_ in recorded.rows if "bytes" not in what}
            expected = resources.check_graph(resources.from_description(DESCRIPTION, variant))
            self.assertEqual(used, {what: used for what, used, *_ in expected.rows if "bytes" not in what})

    def test_known_numbers(self):
        """Worked out by hand, by the rules of ObjectFifoLowering.md."""
        rows = {
            name: {what: used for what, used, *_ in resources.check_overlay(DESCRIPTION, variant).rows}
            for name, variant in VARIANTS.items()
        }
        memtile = "memtile (0, 1)"
        self.assertEqual(rows["gemm8"]["core (0, 2) bytes"], 62976)
        self.assertEqual([rows["gemm8"][f"{memtile} {x}"] for x in ("descriptors", "locks", "bytes")], [24, 12, 66560])
        self.assertEqual([rows["gemm1"][f"{memtile} {x}"] for x in ("descriptors", "locks", "bytes")], [36, 18, 115712])
        halves = [f"{memtile} descriptors of {parity} channels" for parity in ("even", "odd")]
        self.assertEqual([rows["gemm8"][half] for half in halves], [16, 8])
        self.assertEqual([rows["gemm1"][half] for half in halves], [18, 18])

    def test_unrolled_generator_is_told_why_it_fails(self):
        self.assertEqual(resources.check_graph(resources.unrolled(512)).errors, [])
        errors = resources.check_graph(resources.unrolled(2048)).errors
        self.assertTrue(errors)
        self.assertIn("88 of 48", errors[0])
        self.assertIn("no space for this BD", errors[0])
        self.assertIn("B_L3L2 32", errors[0])

    def test_declaring_b_first_fills_the_odd_half(self):
        graph = resources.from_description(DESCRIPTION, VARIANTS["gemm1"])
        graph.links = [graph.links[1], graph.links[0], graph.links[2]]
        rows = {what: used for what, used, *_ in resources.check_graph(graph).rows}
        self.assertEqual(rows["memtile (0, 1) descriptors of odd channels"], resources.MEMTILE_HALF)

    def test_each_limit_is_noticed(self):
        def errors(change, name="gemm8"):
            graph = resources.from_description(DESCRIPTION, VARIANTS[name])
            change(graph)
            return " ".join(resources.check_graph(graph).errors)

        def deeper_c(graph):
            for fifo in graph.fifos:
                if fifo.name.startswith("C_L1L2"):
                    fifo.source_depth = 2

        def third_input(graph):
            graph.fifos.append(resources.Fifo("X", 64, (0, 1), [(0, 2)]))

        def long_walk(graph):
            graph.fifo("C_L2L3_0").walk = [(8, 8 << 17), (8, 8), (8, 64), (8, 1)]

        def short_walk(graph):
            graph.fifo("A_L2L1_0").walk = [(8, 8), (8, 1024), (8, 128), (8, 1)]

        def gap(graph):
            graph.fifo("C_L1L2_0_0").size = 2048

        def huge(graph):
            graph.links[0].depth = 70

        def crowd(graph):
            graph.fifos += [resources.Fifo(f"X{i}", 64, (0, 5), [(0, 0)]) for i in range(2)]

        def stack(graph):
            graph.core_buffers[(0, 2)][0] = ("stack", 1000)

        for change, sentence in (
            (deeper_c, "core (0, 2) bytes: 67072 of 65536"),
            (third_input, "core (0, 2) channels in: 3 of 2"),
            (long_walk, "largest step in a walk: 262144 of 131072"),
            (short_walk, "its walk covers 4096 of 8192 bytes"),
            (gap, "do not tile their buffer"),
            (huge, "memtile (0, 1) bytes: 623616 of 524288"),
            (crowd, "core (0, 2) streams south: 6 of 4"),
            (stack, "stack has 1000 bytes, which misaligns"),
        ):
            self.assertIn(sentence, errors(change))

    def test_shapes_that_do_not_fit_are_named(self):
        for shape, sentence in (
            ((500, 512, 512, 1), "M = 500 is no multiple of 256"),
            ((512, 100, 512, 1), "K = 100 is no multiple of 128"),
            ((512, 512, 600, 1), "N = 600 is no multiple of 512"),
            ((512, 512, 16384, 2), "shim steps of C in words: 2097152 of 1048576"),
            ((65536, 512, 512, 1), "shim iterations: 256 of 64"),
        ):
            report = resources.Report()
            resources.check_shape(report, DESCRIPTION, VARIANTS["gemm8"], *shape)
            self.assertIn(sentence, " ".join(report.errors))

    def test_another_description_gives_another_design(self):
        """Nothing in the design is a number of its own."""
        changed = copy.deepcopy(DESCRIPTION)
        changed.update(tail=1024, b_object=DESCRIPTION["b_object"] + 512)
        program = gemm.design(changed, changed["variants"][0])
        self.assertEqual(graph_of(program).fifo("B_L2L1_3").size, DESCRIPTION["b_object"] + 512)
        self.assertNotEqual(
            by_name(graph_of(program).fifos), by_name(resources.from_description(DESCRIPTION, VARIANTS["gemm8"]).fifos)
        )


class StandIn(unittest.TestCase):
    def test_parts_that_do_not_tile_are_refused(self):
        fifo = iron.ObjectFifo(gemm.int8s(128), name="whole")
        with self.assertRaises(ValueError):
            fifo.cons().split([0, 32], depths=[2, 2], obj_types=[gemm.int8s(64)] * 2, names=["x", "y"])
        iron.ObjectFifo.all.clear()

    def test_access_outside_a_tensor_is_refused(self):
        with self.assertRaises(ValueError):
            gemm.TensorAccessPattern((64,), 1, [1, 1, 1, 64], [0, 0, 0, 1])
        self.assertEqual(math.prod(gemm.TensorAccessPattern((64,), 0, [1, 1, 1, 64], [0, 0, 0, 1]).sizes), 64)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
