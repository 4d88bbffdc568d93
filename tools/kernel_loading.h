// Brings kernels into this process: the generic ones from the module built beside qconvc, specialised ones by compiling
// them now.
#pragma once

#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "tools/layer_file.h"
#include "tools/targets.h"

namespace qconv::tools {

/// Registers the generic kernels of these targets. Throws EnvironmentError when the module is missing or does not load.
void register_generic_kernels(const std::vector<TargetInfo> &targets);

/// Compiles the layers for the targets into a temporary folder, links and loads them, and registers them. Throws
/// EnvironmentError, also when there is no C compiler to link with.
void register_specialised_kernels(const std::vector<LayerSpec> &layers, const std::vector<TargetInfo> &targets,
                                  int jobs);

} // namespace qconv::tools
