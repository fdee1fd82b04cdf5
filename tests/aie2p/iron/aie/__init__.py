"""A recording stand-in for the part of IRON (Xilinx/mlir-aie 1.4.2, python/iron/) that kernels/aie2p/gemm.py calls: the
same names and parameters, and the refusals of the real one as far as the design could run into them. resolve_program()
returns the Program with all that was recorded instead of an MLIR module."""
