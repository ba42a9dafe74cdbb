"""Tests whose results must hold whatever the CPU can do."""

def cpu_level_test(name, deps = [], levels = ["avx2", "portable"], **kwargs):
    """A cc_test, and one more for each lesser CPU level that it is forced to.

    Args:
      name: of the test that uses all the CPU has; the others end in _<level>.
      deps: without a main: that is //kernels/cpu:cpu_level_main.
      levels: of cpu_level_main.cc.
      **kwargs: as of cc_test.
    """
    for level in [None] + levels:
        native.cc_test(
            name = name + ("_" + level if level else ""),
            args = ["--cpu_level=" + level] if level else [],
            deps = deps + ["//kernels/cpu:cpu_level_main"],
            **kwargs
        )
