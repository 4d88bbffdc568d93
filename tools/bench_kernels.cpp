#include "tools/bench_kernels.h"

#include <algorithm>

#include "runtime/arithmetic.h"
#include "runtime/cpu_features.h"
#include "runtime/registry.h"
#include "tools/kernel_loading.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {

BenchKernels::BenchKernels(const TargetInfo &target, const std::vector<BenchRow> &rows,
                           const std::vector<std::string> &kinds, const std::string &forced)
    : target_(target.name) {
    const auto wanted = [&](const char *kind) { return std::find(kinds.begin(), kinds.end(), kind) != kinds.end(); };
    // Generic first: once specialised kernels are registered, they are preferred.
    if (wanted("generic")) {
        register_generic_kernels({target});
        choose_all(rows, "generic", forced);
    }
    if (wanted("specialised")) {
        std::vector<LayerSpec> layers;
        for (size_t i = 0; i < rows.size(); i++) {
            LayerSpec layer;
            // Table rows of different networks may share a name.
            layer.name = identifier(rows[i].name) + "_" + std::to_string(i);
            layer.config = rows[i].config;
            layer.width = rows[i].width;
            layer.batch = rows[i].batch;
            layers.push_back(layer);
        }
        register_specialised_kernels(layers, {target}, usable_cpus());
        choose_all(rows, "specialised", "");
    }
}

void BenchKernels::choose_all(const std::vector<BenchRow> &rows, const std::string &kind, const std::string &forced) {
    for (const BenchRow &row : rows) {
        qconv_layer_config config = row.config;
        std::string choice = forced + "@" + target_;
        config.kernel = choice.c_str();
        // A row that no kernel serves is reported when its turn comes, by the layer it cannot create.
        try {
            choice = std::string(select_kernel(config, QCONV_OP_FORWARD, cpu_features()).name) + "@" + target_;
        } catch (const std::exception &) {
        }
        choices_[kind].push_back(choice);
    }
}

std::vector<std::string> BenchKernels::candidates(const qconv_layer_config &config) const {
    std::vector<std::string> names;
    for (size_t i = 0; i < qconv_kernel_count(); i++) {
        const qconv_kernel &kernel = *qconv_kernel_at(i);
        if (kernel.target == target_ && !mismatch(kernel, config))
            names.push_back(std::string(kernel.name) + "@" + target_);
    }
    return names;
}

} // namespace qconv::tools
