"""The figures that captiond is judged by, measured and kept: ``python -m load_tests.bench``.

Each module of ``load_tests.bench.sections`` measures some and says what they may be at most; the
runner finds the modules by itself. A new section is one file with one function.
"""
