"""Writes other.a and other.h: another Halide library, with a Halide runtime of its own.

usage: other.py FOLDER (in a Python that has halide)
"""

import sys

import halide as hl

x, y = hl.Var("x"), hl.Var("y")
source = hl.ImageParam(hl.Float(32), 1, "source")
doubled, other = hl.Func("doubled"), hl.Func("other")
doubled[x] = source[x] * 2.0
other[x, y] = doubled[x] + hl.f32(y)
doubled.compute_root()
other.parallel(y)
other.compile_to_static_library(f"{sys.argv[1]}/other", [source], "other", hl.Target("x86-64-linux-user_context"))
