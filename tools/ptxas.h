// What NVIDIA's assembler says of a kernel, where it is installed.
#pragma once

#include <string>
#include <vector>

#include "tools/inspect_report.h"
#include "tools/ptx.h"

namespace qconv::tools {

/// Runs `ptxas --verbose` (on PATH, or in CUDA_HOME, or in /usr/local/cuda) for the text's own target. Empty if there
/// is none or it fails.
std::vector<PtxAssembled> assemble_ptx(const std::string &text, const PtxModule &module);

} // namespace qconv::tools
