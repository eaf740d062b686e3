// Operator schemas and argument checks of the torch library; no algorithms.
//
// Only torch's stable ABI is used (torch/csrc/stable and torch/headeronly), so that one binary loads in CPU and CUDA
// builds of torch >= 2.10. <torch/extension.h> would tie it to one release, and costs a minute to compile.
#include <torch/csrc/stable/library.h>

#include <string>

namespace {

// What this binary was compiled with, as "key=value" words: for `ccm-fast env` and bug reports.
std::string build_info() {
  std::string s = "compiler=" CCM_COMPILER " torch=" CCM_TORCH_VERSION " isa=baseline";
#ifdef CCM_HAVE_AVX2
  s += ",avx2";
#endif
#ifdef CCM_HAVE_AVXVNNI
  s += ",avxvnni";
#endif
#ifdef CCM_HAVE_AVX512VNNI
  s += ",avx512vnni";
#endif
  return s;
}

}  // namespace

STABLE_TORCH_LIBRARY(ccm_fast, m) { m.def("build_info() -> str"); }

// No tensor argument that the dispatcher could take a device from, hence CompositeExplicitAutograd.
STABLE_TORCH_LIBRARY_IMPL(ccm_fast, CompositeExplicitAutograd, m) { m.impl("build_info", TORCH_BOX(&build_info)); }
