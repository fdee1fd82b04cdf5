import math
import typing

from .device import Tile


def bytes_of(array_type):
    """Of a type such as np.ndarray[(64,), np.dtype[np.int8]]."""
    shape, dtype = typing.get_args(array_type)
    return math.prod(shape) * typing.get_args(dtype)[0]().itemsize


class ObjectFifo:
    all = []  # in order of creation, cleared by Program.resolve_program()

    def __init__(self, obj_type, depth=2, name=None, dims_to_stream=None):
        if depth is not None and depth < 1:
            raise ValueError(f"Default ObjectFifo depth must be > 0, but got {depth}")
        self.obj_type, self.depth, self.name, self.dims_to_stream = obj_type, depth, name, dims_to_stream
        self.producer, self.consumers = None, []
        if any(fifo.name == name for fifo in ObjectFifo.all):
            raise ValueError(f"two fifos are called {name}")
        ObjectFifo.all.append(self)

    def prod(self, depth=None, tile=None):
        if self.producer is None:
            self.producer = Handle(self, depth or self.depth, tile)
        return self.producer

    def cons(self, depth=None, tile=None):
        self.consumers.append(Handle(self, depth or self.depth, tile))
        return self.consumers[-1]


class Link:
    """What a memory tile does between fifos: Program.links."""

    all = []

    def __init__(self, tile, inputs, outputs, offsets):
        whole = inputs if len(inputs) == 1 else outputs
        parts = outputs if len(inputs) == 1 else inputs
        ends = [*offsets[1:], bytes_of(whole[0].obj_type)]
        if [end - start for start, end in zip(offsets, ends)] != [bytes_of(part.obj_type) for part in parts]:
            raise ValueError(f"the parts of {whole[0].name} do not tile it")
        self.tile, self.inputs, self.outputs = tile, inputs, outputs
        Link.all.append(self)


class Handle:
    def __init__(self, fifo, depth, tile):
        self.fifo, self.depth, self.tile, self.transfers = fifo, depth, tile, []
        self.acquired, self.elements = 0, None

    def _place(self, tile):
        if self.tile is not None and self.tile != tile:
            raise ValueError(f"{self.fifo.name} has two tiles")
        self.tile = tile

    def forward(self, tile=None, obj_type=None, depth=None, name=None, dims_to_stream=None):
        return self.split(
            [0],
            tile=tile,
            depths=[depth or self.depth],
            obj_types=[obj_type or self.fifo.obj_type],
            names=[name],
            dims_to_stream=[dims_to_stream],
        )[0]

    def split(self, offsets, tile=None, depths=None, obj_types=None, names=None, dims_to_stream=None):
        self._place(tile)
        dims_to_stream = dims_to_stream or [None] * len(offsets)
        fifos = [ObjectFifo(*part) for part in zip(obj_types, depths, names, dims_to_stream)]
        for fifo in fifos:
            fifo.prod(tile=tile)
        Link(tile, [self.fifo], fifos, offsets)
        return fifos

    def join(self, offsets, tile=None, depths=None, obj_types=None, names=None):
        self._place(tile)
        fifos = [ObjectFifo(*part) for part in zip(obj_types, depths, names)]
        for fifo in fifos:
            fifo.cons(tile=tile)
        Link(tile, fifos, [self.fifo], offsets)
        return fifos

    # For the runtime sequence. Like the hardware, only whole objects are fine.
    def fill(self, source, tap=None, wait=False, group=None):
        self._transfer(source, tap, wait, group)

    def drain(self, target, tap=None, wait=False, group=None):
        self._transfer(target, tap, wait, group)

    def _transfer(self, tensor, tap, wait, group):
        if self.tile is None or self.tile.row != 0:
            raise ValueError(f"{self.fifo.name} has no end in the shim row")
        if math.prod(tap.tensor_dims) != bytes_of(tensor):
            raise ValueError(f"{self.fifo.name}: the access pattern is of another tensor")
        self.transfers.append((tap, wait))
        group.handles.append(self)

    # For a worker's body. elements(handle), where set, gives the memory of the next object.
    def acquire(self, count):
        if self.acquired + count > self.depth:
            raise ValueError(f"{self.fifo.name}: more elements acquired than it has")
        self.acquired += count
        return Buffer(self.fifo.obj_type, name=self.fifo.name, memory=self.elements(self) if self.elements else None)

    def release(self, count):
        if count > self.acquired:
            raise ValueError(f"{self.fifo.name}: released and not acquired")
        self.acquired -= count


class Buffer:
    def __init__(
        self, type=None, initial_value=None, name=None, tile=None, use_write_rtp=False, address=None, memory=None
    ):
        self.type, self.name, self.tile, self.memory = type, name, tile, memory

    def __getitem__(self, index):
        return self.memory[index]


class Kernel:
    calls = []  # (name, buffers)
    execute = None  # where set, called with the same

    def __init__(self, name, object_file_name, arg_types=()):
        self.name, self.object_file_name, self.arg_types = name, object_file_name, list(arg_types)

    def __call__(self, *arguments):
        if [argument.type for argument in arguments] != self.arg_types:
            raise ValueError(f"{self.name} takes {self.arg_types}")
        Kernel.calls.append((self.name, arguments))
        if Kernel.execute:
            Kernel.execute(self.name, arguments)


class Worker:
    def __init__(self, core_fn, fn_args=None, tile=None, while_true=True, stack_size=None):
        self.core_fn, self.fn_args, self.tile, self.stack_size = core_fn, fn_args, tile, stack_size
        for argument in fn_args:
            if isinstance(argument, ObjectFifo):
                raise ValueError("Cannot give an ObjectFifo directly to a worker")
            if isinstance(argument, Handle):
                argument._place(tile)
            if isinstance(argument, Buffer):
                if argument.tile not in (None, tile):
                    raise ValueError(f"{argument.name} is on another tile than its worker")
                argument.tile = tile


class TaskGroup:
    def __init__(self):
        self.handles = []

    def finish(self):
        """The group's transfers; at most four tasks in a channel's queue."""
        Program.groups.append(self.handles)
        for handle in self.handles:
            if self.handles.count(handle) > 4:
                raise ValueError(f"{handle.fifo.name}: more tasks than a queue takes")


class Runtime:
    def __init__(self, sequence_fn, fn_args):
        self.sequence_fn, self.fn_args = sequence_fn, fn_args


class Program:
    groups = []

    def __init__(self, device, runtime, workers=()):
        self.device, self.runtime, self.workers = device, runtime, list(workers)

    def resolve_program(self):
        self.runtime.sequence_fn(*self.runtime.fn_args)
        self.fifos, self.links, self.groups = ObjectFifo.all, Link.all, Program.groups
        ObjectFifo.all, Link.all, Program.groups = [], [], []
        for fifo in self.fifos:
            if fifo.producer is None or fifo.producer.tile is None or not fifo.consumers:
                raise ValueError(f"{fifo.name} has no producer, no consumer or no tile")
        return self
