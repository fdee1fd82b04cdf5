import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class TensorAccessPattern:
    """Elements of a tensor in the order in which a transfer takes them; sizes and strides outermost first."""

    tensor_dims: tuple
    offset: int
    sizes: list
    strides: list

    def __post_init__(self):
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides))
        if len(self.sizes) != len(self.strides) or self.offset < 0 or last >= math.prod(self.tensor_dims):
            raise ValueError(f"{self} leaves its tensor")

    def elements(self):
        return math.prod(self.sizes)
