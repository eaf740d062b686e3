// Adds CompressAI's stream decoder to the module.
#pragma once
#include <pybind11/pybind11.h>

void bind_compressai(pybind11::module_& m);
