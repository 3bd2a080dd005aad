#include <nanobind/nanobind.h>
NB_MODULE(_native, m) { m.attr("__doc__") = "Block codecs and search kernels."; }
