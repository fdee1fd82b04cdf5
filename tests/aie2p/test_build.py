#!/usr/bin/env python3
"""build.py without the tools that it needs: what it says, and, with programs in their place, what it makes of their
results. Arguments: the program that prints the description, and the source root."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

DESCRIBE, ROOT = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
sys.path.insert(0, str(ROOT / "kernels/aie2p"))
# pylint: disable=wrong-import-position
import build

DESCRIPTION = json.loads(subprocess.run([DESCRIBE], check=True, capture_output=True, text=True).stdout)
VARIANTS = {variant["name"]: variant for variant in DESCRIPTION["variants"]}


def lowered(variant, new_form=True):
    """The lines of a lowered module that matter, as mlir-aie prints them."""
    lines = []
    for prefix, key in (("A_L3L2", "a_channels"), ("B_L3L2", "b_channels"), ("C_L2L3", "c_channels")):
        for number, (column, direction, channel) in enumerate(variant[key]):
            if new_form:
                inside = f"%shim_noc_tile_{column}_0, {direction}, {channel}"
                lines.append(f"    aie.shim_dma_allocation @{prefix}_{number}_shim_alloc({inside})")
            else:
                lines.append(f"    aie.shim_dma_allocation @{prefix}_{number} ({direction}, {channel}, {column})")
    lines.append('    %b = aie.buffer(%tile_0_2) {address = 4096 : i32, sym_name = "sums_0_2"} : memref<4096xi32>')
    lines.append("    %t = aie.tile(0, 0) {controller_id = #aie.packet_info<pkt_type = 0, pkt_id = 15>}")
    return "\n".join(lines) + "\n"


def elf(*sections):
    """A 32-bit ELF with sections (flags, size)."""
    header = (
        b"\x7fELF\x01\x01" + bytes(26) + struct.pack("<I", 52) + bytes(10) + struct.pack("<HHH", 40, len(sections), 0)
    )
    return header + b"".join(struct.pack("<10I", 0, 1, flags, 0, 0, size, 0, 0, 0, 0) for flags, size in sections)


class Checks(unittest.TestCase):
    def test_what_the_host_expects_is_accepted_in_both_forms(self):
        for variant in VARIANTS.values():
            for new_form in (True, False):
                self.assertEqual(build.check_module(lowered(variant, new_form), DESCRIPTION, variant), [])

    def test_what_it_does_not_expect_is_named(self):
        variant = VARIANTS["gemm8"]
        good = lowered(variant)
        for old, new, sentence in (
            (
                "%shim_noc_tile_4_0, MM2S, 1",
                "%shim_noc_tile_4_0, MM2S, 0",
                "B_L3L2_4 is on shim channel [4, 'MM2S', 0]",
            ),
            ("@C_L2L3_7_shim_alloc", "@other", "C_L2L3_7 is on shim channel None"),
            ("address = 4096", "address = 4128", "buffer sums_0_2 lies at 4128, no multiple of 64"),
            ("aie.buffer", "aie.nothing", "no buffers with addresses"),
            ("pkt_id = 15", "pkt_id = 14", "controller ids are [14]"),
        ):
            self.assertIn(sentence, " ".join(build.check_module(good.replace(old, new), DESCRIPTION, variant)))

    def test_program_is_what_can_be_executed(self):
        self.assertEqual(build.program_bytes(elf((6, 5000), (3, 900), (6, 200))), 5200)
        with self.assertRaises(build.Failure):
            build.program_bytes(b"#!/bin/sh")


class Builds(unittest.TestCase):
    """With scripts in place of the tools, and the recording stand-in in place of IRON."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.site, self.bin = self.folder / "site", self.folder / "bin"
        shutil.copytree(ROOT / "tests/aie2p/iron/aie", self.site / "mlir_aie/python/aie")
        for package, version in build.PINNED.items():
            self.install(package, version)
        self.module = self.folder / "lowered.mlir"
        self.module.write_text(lowered(VARIANTS["gemm8"]), encoding="utf-8")
        self.elf = self.folder / "core.elf"
        self.elf.write_bytes(elf((6, 9000)))
        self.script(self.site / "llvm-aie/bin/clang++", 'while [ "$1" != -o ]; do shift; done; echo object > "$2"')
        copy = f"mkdir project && cp {self.module} project/main.mlir && cp {self.elf} project/core_0_2.elf"
        self.script(
            self.site / "mlir_aie/bin/aiecc", f"ls gemm_step.o >/dev/null && {copy} && touch plain.xclbin sequence.bin"
        )
        self.script(self.bin / "xclbinutil", 'echo "$4" > "$6"')

    def install(self, package, version):
        folder = self.site / f"{package.replace('-', '_')}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8"
        )

    @staticmethod
    def script(path, body):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nset -e\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def build(self, *options):
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "PYTHONPATH": f"{self.site}:{self.site / 'mlir_aie/python'}",
        }
        command = [sys.executable, "-B", ROOT / "kernels/aie2p/build.py", "--output", self.folder / "out", *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def assert_fails(self, sentence, *options):
        done = self.build(*options)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(sentence, done.stderr)

    def test_xclbin_carries_its_identity_and_lies_in_a_folder_of_its_own(self):
        done = self.build("--variant", "gemm8")
        self.assertEqual(done.returncode, 0, done.stderr)
        made = list((self.folder / "out").glob("gemm8-????????????/gemm8.xclbin"))
        self.assertEqual(len(made), 1)
        identity = f"USER:whisperxdna2_overlay:{VARIANTS['gemm8']['identity']}"
        self.assertEqual(made[0].read_text(encoding="utf-8").strip(), identity)
        self.assertIn("largest core program: 9000 of 16384 bytes", done.stdout)
        self.assertIn(f"WHISPERXDNA2_OVERLAY={made[0]}", done.stdout)

    def test_missing_tools_are_named_with_what_installs_them(self):
        shutil.rmtree(self.site / "llvm_aie.dist-info")
        self.assert_fails("Peano (llvm-aie), the compiler for the cores, is not installed")
        shutil.rmtree(self.site / "mlir_aie.dist-info")
        self.assert_fails("pip install 'mlir_aie==1.4.2'")

    def test_missing_programs_are_named(self):
        (self.bin / "xclbinutil").unlink()
        if not shutil.which("xclbinutil", path="/usr/bin:/bin"):
            self.assert_fails("xclbinutil is not in the PATH")
        (self.site / "mlir_aie/bin/aiecc").unlink()
        self.assert_fails("bin/aiecc is missing")

    def test_other_versions_are_refused_unless_asked_for(self):
        self.install("llvm-aie", "22.0.0.2026082101")
        self.assert_fails("llvm-aie is 22.0.0.2026082101, and what is known to work is 21.0.0")
        self.assertEqual(self.build("--variant", "gemm8", "--any-version").returncode, 0)

    def test_failure_of_a_tool_is_shown(self):
        self.script(self.site / "llvm-aie/bin/clang++", "echo no such target; exit 3")
        self.assert_fails("no such target", "--variant", "gemm8")

    def test_result_that_the_host_does_not_expect_is_refused(self):
        self.module.write_text(self.module.read_text(encoding="utf-8").replace("4096", "4128"), encoding="utf-8")
        self.assert_fails("buffer sums_0_2 lies at 4128", "--variant", "gemm8")
        self.module.write_text(lowered(VARIANTS["gemm8"]), encoding="utf-8")
        self.elf.write_bytes(elf((6, 17000)))
        self.assert_fails("core_0_2.elf has 17000 bytes of program", "--variant", "gemm8")
        self.assertEqual(list((self.folder / "out").glob("gemm8-????????????")), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
