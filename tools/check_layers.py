#!/usr/bin/env python3
"""Fails when a source file includes what its room may not know: a header of a higher room or of a
neighbour, a vendor's header outside its one home, a C++ library.  Prints file:line: and the rule.

`--self-test` plants one breach of every rule in a temporary tree and fails unless each is found.
"""
import pathlib
import re
import sys
import tempfile

ALL = "base tensor kernels autograd model optim dist data infer trainer cli"
MAY = {  # room: the rooms it may include, itself aside
    "base": "", "tensor": "base", "kernels": "base tensor", "autograd": "base tensor kernels",
    "model": "base tensor autograd", "optim": "base tensor kernels autograd",
    "dist": "base tensor kernels autograd", "data": "base",
    "infer": "base tensor kernels autograd model data dist",
    "trainer": "base tensor kernels autograd model optim dist data infer",
    "cli": "base tensor kernels autograd model optim dist data infer trainer",
    "tests": ALL, "bench": ALL, "tools": ALL,
}
PRIVATE = {  # a folder's headers: who may include them
    "kernels/cuda/": "kernels/cuda/ dist/comm_nccl tests/ bench/",
    "kernels/cpu/": "kernels/cpu/ tests/ bench/",
}
VENDOR = [  # header pattern: its homes
    (r"cuda|cublas|cudnn|nvtx|^cub/|cooperative_groups|^mma\.h", "kernels/cuda/ dist/comm_nccl"),
    (r"^nccl", "dist/comm_nccl"), (r"^mpi\.h", "dist/comm_mpi"), (r"^yaml\.h", "base/yaml"),
    (r"^zlib\.h", "data/gzline"), (r"^jansson", "base/json"), (r"^pcre2", "data/pretok"),
    (r"cblas", "kernels/cpu/matmul"), (r"^criterion/", "tests/"),
]
# A test or a benchmark may set a vendor's library beside ours; nobody else may.
VENDOR_FREE = ("tests/", "bench/")
# Functions of a library that no header of its own declares, called or declared: the same.
CALLS = [(re.compile(r"\b[sd](ge|or|sy|po)[a-z0-9]{2,4}_\s*\("), "LAPACK", "kernels/cpu/svd")]
INCLUDE = re.compile(r'\s*#\s*include\s+(["<])([^">]+)[">]')
SUFFIXES = (".c", ".h", ".cu", ".cuh")


def sources(root):
    for room in MAY:
        for f in sorted((root / room).rglob("*")):
            if f.suffix in SUFFIXES and f.is_file():
                yield room, f, f.relative_to(root).as_posix()


def at_home(name, homes):
    return any(name.startswith(h) for h in homes.split())


def problems(root):
    for room, path, name in sources(root):
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".h", ".cuh") and "#pragma once" not in text:
            yield f"{name}:1: a header starts with #pragma once"
        for pattern, library, homes in CALLS:
            for no, line in enumerate(text.splitlines(), 1):
                if pattern.search(line) and not at_home(name, homes) and not name.startswith(VENDOR_FREE):
                    yield f"{name}:{no}: {library} belongs in {homes}"
        includes = [(no, m[1], m[2]) for no, line in enumerate(text.splitlines(), 1) if (m := INCLUDE.match(line))]
        own = name.rsplit(".", 1)[0] + ".h"
        if path.suffix in (".c", ".cu") and (root / own).exists() and (not includes or includes[0][2] != own):
            yield f"{name}:{includes[0][0] if includes else 1}: the first include is the file's own header \"{own}\""
        for no, mark, header in includes:
            where = f"{name}:{no}:"
            other = header.split("/")[0]
            if mark == '"':
                if other not in MAY:
                    yield f'{where} "{header}": includes are written from the root, "room/name.h"'
                elif other != room and other not in MAY[room].split():
                    yield f"{where} {room} may not include {header} (it may: {MAY[room] or 'nothing'})"
                for folder, homes in PRIVATE.items():
                    if header.startswith(folder) and not at_home(name, homes):
                        yield f"{where} {header} is private to {homes}"
                continue
            if "." not in header and not header.startswith("cub"):
                yield f"{where} <{header}> is a C++ library: the link stays free of libstdc++"
            for pattern, homes in VENDOR:
                if re.search(pattern, header) and not at_home(name, homes):
                    if not (name.startswith(VENDOR_FREE) and homes != "tests/"):
                        yield f"{where} <{header}> belongs in {homes}"


BREACHES = [  # file, line, a part of the message that must come
    ("data/x.c", '#include "tensor/tensor.h"', "data may not include tensor/tensor.h"),
    ("base/x.h", '#pragma once\n#include "data/y.h"', "base may not include data/y.h"),
    ("tensor/x.c", '#include "tests/support/z.h"', "tensor may not include tests/support/z.h"),
    ("tensor/x.cu", "#include <cuda_runtime.h>", "<cuda_runtime.h> belongs in kernels/cuda/"),
    ("data/x.c", "#  include <jansson.h>", "<jansson.h> belongs in base/json"),
    ("trainer/x.c", "#include <mpi.h>", "<mpi.h> belongs in dist/comm_mpi"),
    ("dist/x.c", "#include <nccl.h>", "<nccl.h> belongs in dist/comm_nccl"),
    ("kernels/cpu/x.c", "#include <cblas.h>", "<cblas.h> belongs in kernels/cpu/matmul"),
    ("model/x.c", "#include <criterion/criterion.h>", "<criterion/criterion.h> belongs in tests/"),
    ("kernels/x.c", '#include "kernels/cuda/cuda.cuh"', "is private to kernels/cuda/"),
    ("kernels/cuda/x.cu", "#include <vector>", "<vector> is a C++ library"),
    ("infer/x.c", '#include "../base/err.h"', "written from the root"),
    ("base/x.h", "int x;", "#pragma once"),
    ("model/x.c", "    sgesdd_(jobz, m);", "LAPACK belongs in kernels/cpu/svd"),
]
FINE = [("kernels/cuda/x.cu", '#include "kernels/cuda/cuda.cuh"\n#include <cublasLt.h>'),
        ("base/json.c", '#include "base/err.h"\n#include <jansson.h>'),
        ("tests/data/test_x.c", '#include "tests/support/tmp.h"\n#include <criterion/criterion.h>\n#include <zlib.h>')]


def self_test():
    failed = 0
    for name, text, want in [*BREACHES, *((n, t, None) for n, t in FINE)]:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True)
            path.write_text(text + "\n", encoding="utf-8")
            got = list(problems(pathlib.Path(folder)))
        if (want is None and got) or (want is not None and not any(want in g for g in got)):
            print(f"{name}: {text!r}: wanted {want!r}, got {got}")
            failed = 1
    return failed


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(problems(root))
    print(*found, sep="\n")
    if not any(True for _ in sources(root)):
        print(f"no sources under {root}")
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
