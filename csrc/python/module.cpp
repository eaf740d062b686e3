// The rANS coder over bytes and NumPy arrays, for those who want it without torch. Binding only: it converts types.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_rans, m) {
  m.doc() = "Native rANS coder of ccm_fast";
  m.def("version", [] { return CCM_VERSION; }, "Version of ccm_fast that this module was compiled from.");
}
