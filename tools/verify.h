// Checks layers against the oracle (tests/support/reference.h) on seeded random data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/layer_file.h"
#include "tools/targets.h"

namespace qconv::tools {

struct VerifySettings {
    uint32_t directions = QCONV_FORWARD;
    bool specialised = false;  // compile for each shape first; else the generic kernels
    bool every_kernel = false; // all kernels that can serve a layer, not the chosen one only
    uint64_t seed = 1;
    int64_t batch = 0, width = 0; // 0: the layer file's estimate, else small sizes
    double oracle_macs = 3e7;     // work the oracle may do a layer and direction; beyond it, samples
    int jobs = 1;
};

struct VerifyResult {
    std::string layer, description, direction, kernel, path, target;
    std::string problem; // "" if every checked output is within its tolerance
    int64_t batch = 0, width = 0, width_out = 0, checked = 0, total = 0;
    double max_error = 0, max_tolerance = 0;
};

/// Checks every layer with kernels of one target. `starting` is told the layer, then `finished` what came of it, once a
/// direction and kernel. Throws EnvironmentError when kernels cannot be had at all.
void verify_layers(const std::vector<LayerSpec> &layers, const TargetInfo &target, const VerifySettings &settings,
                   const std::function<void(const LayerSpec &)> &starting,
                   const std::function<void(const VerifyResult &)> &finished);

} // namespace qconv::tools
