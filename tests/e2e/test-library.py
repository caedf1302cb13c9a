#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The installed library is enough to build a program with: meson install, pkg-config, cc, and it generates."""

import os
import shlex
import subprocess
import tempfile

from moedtest import SOURCE, Daemon, skip

BUILD = os.environ.get("MOED_BUILD") or skip("MOED_BUILD does not name the build folder")
CC = shlex.split(os.environ.get("CC", "cc"))
SANITIZE = os.environ.get("MOED_SANITIZE", "none")


def run(*command, **kwargs):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)
    assert p.returncode == 0, "%s: %d\n%s%s" % (" ".join(command), p.returncode, p.stdout, p.stderr)
    return p.stdout


def find(folder, name):
    for at, _, files in os.walk(folder):
        if name in files:
            return at
    raise AssertionError("%s was not installed" % name)


with tempfile.TemporaryDirectory(prefix="moed-install-") as root:
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root)
    env = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": root, "PKG_CONFIG_PATH": find(root, "libmoed.pc")}
    flags = run("pkg-config", "--cflags", "--libs", "libmoed", env=env).split()
    program = os.path.join(root, "example")
    sanitize = [] if SANITIZE == "none" else ["-fsanitize=" + SANITIZE]
    run(*CC, *sanitize, "-Wall", "-Wextra", "-Werror", "-std=c99", os.path.join(SOURCE, "client/libmoed/example.c"),
        "-o", program, *flags)

    # The header alone, in both languages and without GNU extensions.
    header = os.path.join(root, "header.c")
    with open(header, "w") as f:
        f.write("#include <moed.h>\nint main(void) { struct moed_request q = MOED_REQUEST_INIT; return (int) q.max_tokens; }\n")
    run(*CC, *sanitize, "-pedantic", "-Wall", "-Wextra", "-Werror", "-std=c99", header, "-o", header + ".out", *flags)

    libraries = os.path.dirname(find(root, "libmoed.pc"))
    symbols = run("nm", "-D", "--defined-only", os.path.join(libraries, "libmoed.so")).split("\n")
    names = [line.split()[-1] for line in symbols if line]
    assert all(name.startswith("moed_") and name.endswith("@@MOED_1") for name in names if name != "MOED_1"), names
    assert len(names) == 17, names

    with Daemon() as d:
        with open(os.path.join(SOURCE, "client/libmoed/example.c")) as f:
            assert len(f.readlines()) <= 34, "the example is to stay short"
        out = run(program, "Once upon a time", env={**d.env, "LD_LIBRARY_PATH": libraries}, errors="replace")
        expected = d.json("run", "--max-tokens", 64, "Once upon a time")["text"]
        assert out == expected + "\n", (out, expected)
    p = subprocess.run([program], env={**os.environ, "MOED_SOCKET": root + "/none", "LD_LIBRARY_PATH": libraries},
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and "no daemon at" in p.stderr, (p.returncode, p.stderr)
print("ok")
