#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compiles the overlays: xclbins for the NPU module of whisperxdna2.

    kernels/aie2p/build.py [--output DIRECTORY] [--variant gemm8|gemm1] [--gelu hinges|lookup|scalar] [-O LEVEL]

Needs mlir_aie and llvm-aie (Peano) of the versions below in this Python's environment, xclbinutil (Debian:
libxrt-utils) and a C++ compiler for this machine. Each build lies in a directory of its own, named by a hash of
everything that went into it, so that no stale file is ever taken for a new one: OUTPUT/VARIANT-HASH/VARIANT.xclbin.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

import resources

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The compiler is pinned to the day: later ones were seen to miscompile what we use (Xilinx/llvm-aie issue 1262).
PINNED = {"mlir_aie": "1.4.2", "llvm-aie": "21.0.0.2026080301+c9c5ecb7"}
INSTALL = (
    "python3 -m venv aie && aie/bin/pip install 'mlir_aie=={mlir_aie}' 'llvm-aie=={llvm-aie}' "
    "-f https://github.com/Xilinx/mlir-aie/releases/expanded_assets/v{mlir_aie} "
    "-f https://github.com/Xilinx/llvm-aie/releases/expanded_assets/nightly"
).format(**PINNED)
PROGRAMS = ("gemm_step", "gemm_requantize", "gemm_gelu", "gemm_write_first", "gemm_write_second")
GELUS = {"hinges": 1, "lookup": 2, "scalar": 3}


class Failure(Exception):
    """Ends the build with a sentence."""


def run(command, cwd=None):
    print("  " + " ".join(str(word) for word in command), flush=True)
    done = subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Failure(f"{command[0]} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def find_tools(any_version):
    """Paths of what is needed; says what is missing and how to get it."""
    versions = {}
    for package, pinned in PINNED.items():
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            name = "Peano (llvm-aie), the compiler for the cores," if package == "llvm-aie" else package
            raise Failure(f"{name} is not installed for {sys.executable}. To install it:\n  {INSTALL}") from None
        if versions[package] != pinned and not any_version:
            raise Failure(
                f"{package} is {versions[package]}, and what is known to work is {pinned}: install that, or give "
                f"--any-version and compare the result with whisperxdna2-check-npu\n  {INSTALL}"
            )
    spec = importlib.util.find_spec("aie")
    if not spec or not spec.origin:
        raise Failure("mlir_aie is installed and has no Python module aie: install it again")
    parents = pathlib.Path(spec.origin).resolve().parents
    mlir_aie = next((parent for parent in parents if parent.name == "mlir_aie"), parents[0])
    peano = pathlib.Path(
        os.environ.get("PEANO_INSTALL_DIR") or importlib.metadata.distribution("llvm-aie").locate_file("llvm-aie")
    )
    tools = {"aiecc": mlir_aie / "bin/aiecc", "clang": peano / "bin/clang++"}
    for name, path in tools.items():
        if not path.exists():
            raise Failure(f"{path} is missing: the installation of {name} is not complete, or of another layout")
    for name, package in (("xclbinutil", "libxrt-utils"), (os.environ.get("CXX", "c++"), "g++")):
        if not shutil.which(name):
            raise Failure(f"{name} is not in the PATH (Debian: {package})")
    return {**tools, "mlir_aie": mlir_aie, "peano": peano, "versions": versions}


def describe(directory):
    """kernels/overlay.h as JSON."""
    program = directory / "describe"
    run([os.environ.get("CXX", "c++"), "-std=c++17", f"-I{ROOT}", HERE / "describe.cpp", "-o", program])
    return json.loads(run([program]))


def compile_programs(tools, directory, arguments):
    for program in PROGRAMS:
        run(
            [tools["clang"], "--target=aie2p-none-unknown-elf", "-std=c++20", f"-O{arguments.optimization}", "-DNDEBUG"]
            + [f"-DWHISPERXDNA2_GELU={GELUS[arguments.gelu]}", f"-I{ROOT}", f"-I{tools['mlir_aie'] / 'include'}"]
            + ["-Wno-parentheses", "-Wno-attributes", "-Wno-macro-redefined", "-Wno-empty-body"]
            + ["-c", HERE / f"{program}.cpp", "-o", directory / f"{program}.o"]
        )


def shim_channels(module):
    """{fifo: [column, direction, channel]} of a lowered module, in either way of writing it."""
    found = {}
    for name, inside in re.findall(r"aie\.shim_dma_allocation\s+@(\w+)\s*\(([^)]*)\)", module):
        parts = [part.strip() for part in inside.split(",")]
        if parts[0].startswith("%"):  # (tile, direction, channel)
            column, direction, channel = re.findall(r"_(\d+)_0$", parts[0])[0], parts[1], parts[2]
        else:  # (direction, channel, column)
            direction, channel, column = parts
        found[name] = [int(column), direction, int(channel)]
    return found


def check_module(module, d, variant):
    """What the compiler decided, against what the host expects. Returns sentences."""
    problems = []
    channels = shim_channels(module)
    for prefix, key in (("A_L3L2", "a_channels"), ("B_L3L2", "b_channels"), ("C_L2L3", "c_channels")):
        for number, expected in enumerate(variant[key]):
            given = next(
                (c for name, c in channels.items() if re.fullmatch(f"{prefix}_{number}(_shim_alloc)?", name)), None
            )
            if given != expected:
                problems.append(f"{prefix}_{number} is on shim channel {given}, and the host's streams use {expected}")
    buffers = re.findall(r"aie\.buffer\((%\w+)\)\s*\{([^}]*)\}", module)
    addresses = [(attributes, re.search(r"address = (\d+)", attributes)) for _, attributes in buffers]
    if not addresses:
        problems.append("the lowered module has no buffers with addresses")
    for attributes, address in addresses:
        name = re.search(r'sym_name = "([^"]*)"', attributes)
        if address and int(address[1]) % resources.ALIGNMENT:
            problems.append(
                f"buffer {name[1] if name else '?'} lies at {address[1]}, no multiple of {resources.ALIGNMENT}"
            )
    controllers = {int(x) for x in re.findall(r"controller_id = #aie\.packet_info<[^>]*pkt_id = (\d+)", module)}
    if controllers - {d["controller"]}:
        problems.append(f"controller ids are {sorted(controllers)}, and the host's streams use {d['controller']}")
    return problems


def program_bytes(elf):
    """Of the executable sections of a 32-bit little-endian ELF."""
    if elf[:6] != b"\x7fELF\x01\x01":
        raise Failure("a core's program is no 32-bit ELF")
    offset, size, count = struct.unpack_from("<I", elf, 32)[0], *struct.unpack_from("<HH", elf, 46)
    sections = [struct.unpack_from("<IIIIII", elf, offset + i * size) for i in range(count)]
    return sum(length for _, _, flags, _, _, length in sections if flags & 4)


def check_programs(directory):
    elves = sorted(directory.rglob("*core_*.elf"))
    if not elves:
        return [f"no core programs were found in {directory}"]
    sizes = {elf: program_bytes(elf.read_bytes()) for elf in elves}
    largest = max(sizes, key=sizes.get)
    print(f"  largest core program: {sizes[largest]} of {resources.CORE_PROGRAM} bytes ({largest.name})")
    limit = resources.CORE_PROGRAM
    return [f"{elf.name} has {size} bytes of program, more than {limit}" for elf, size in sizes.items() if size > limit]


def build(d, variant, tools, arguments):
    import gemm  # needs mlir_aie

    name = variant["name"]
    print(f"{variant['identity']}:")
    report = resources.check_overlay(d, variant)
    print(report.text())
    if report.errors:
        raise Failure(f"{name} does not fit the array")
    module = str(gemm.design(d, variant))

    work = arguments.output / f"{name}-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    compile_programs(tools, work, arguments)
    digest = hashlib.sha256(
        json.dumps([variant["identity"], tools["versions"], arguments.optimization, arguments.gelu]).encode()
    )
    digest.update(module.encode())
    for program in PROGRAMS:
        digest.update((work / f"{program}.o").read_bytes())
    (work / f"{name}.mlir").write_text(module, encoding="utf-8")
    # The allocator that knows of banks cannot place 8704 bytes beside a full bank of 16 KB.
    run(
        [tools["aiecc"], f"--peano={tools['peano']}", "--alloc-scheme=basic-sequential", "--tmpdir=project"]
        + [
            "--get-xclbin",
            "--xclbin-name=plain.xclbin",
            "--get-npu-insts",
            "--npu-insts-name=sequence.bin",
            f"{name}.mlir",
        ],
        cwd=work,
    )
    lowered = [
        path for path in (work / "project").rglob("*.mlir") if "shim_dma_allocation" in path.read_text(encoding="utf-8")
    ]
    if not lowered:
        raise Failure(
            f"the compiler left no lowered module in {work / 'project'}: channels and addresses cannot be checked"
        )
    newest = max(lowered, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8")
    problems = check_module(newest, d, variant) + check_programs(work)
    if problems:
        raise Failure(f"the compiled {name} is not what the host expects:\n  " + "\n  ".join(problems))
    # The host refuses a file whose identity is not its own (npu/overlay_file.cpp).
    identity = f"USER:{d['identity_key']}:{variant['identity']}"
    run(
        ["xclbinutil", "--input", "plain.xclbin", "--key-value", identity, "--output", f"{name}.xclbin", "--force"],
        cwd=work,
    )
    digest.update((work / "sequence.bin").read_bytes())
    final = arguments.output / f"{name}-{digest.hexdigest()[:12]}"
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)
    return final / f"{name}.xclbin"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build" / "overlay")
    parser.add_argument("--variant", choices=("gemm8", "gemm1"), help="only this one")
    parser.add_argument("--gelu", choices=GELUS, default="hinges", help="see gemm_gelu.cpp")
    parser.add_argument(
        "-O", dest="optimization", default="2", choices=("1", "2", "s"), help="1 if 2 gives wrong numbers"
    )
    parser.add_argument("--any-version", action="store_true", help="take the tools that there are")
    arguments = parser.parse_args()
    try:
        tools = find_tools(arguments.any_version)
        arguments.output.mkdir(parents=True, exist_ok=True)
        d = describe(arguments.output)
        made = [build(d, v, tools, arguments) for v in d["variants"] if arguments.variant in (None, v["name"])]
    except Failure as failure:
        sys.exit(f"build.py: {failure}")
    for path in made:
        print(f"{path}\n  to try it: WHISPERXDNA2_OVERLAY={path} whisperxdna2-check-npu")


if __name__ == "__main__":
    main()
