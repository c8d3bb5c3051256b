"""What the CPU of this machine does with 8 bits."""

from pathlib import Path

_INFO = Path("/proc/cpuinfo")
_FLAGS = set(_INFO.read_text().split()) if _INFO.is_file() else set()

# On x86 without VNNI, ONNX Runtime adds two products of 8 bits in 16, which saturates: files in
# 8 bits are less exact there, most of all those of tiny random models.
INT8_SATURATES = "avx2" in _FLAGS and not {"avx512_vnni", "avx_vnni"} & _FLAGS
