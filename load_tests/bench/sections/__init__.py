"""One module per section; ``load_tests.bench.section`` says how to write one."""
