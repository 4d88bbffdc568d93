#include "tools/bench_kernels.h"

#include <algorithm>

#include "runtime/cpu_features.h"
#include "runtime/registry.h"
#include "tools/kernel_loading.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {

BenchKernels::BenchKernels(const TargetInfo &target, const std::vector<BenchRow> &rows,
                           const std::vector<std::string> &kinds) {
    const auto wanted = [&](const char *kind) { return std::find(kinds.begin(), kinds.end(), kind) != kinds.end(); };
    // Generic first: once specialised kernels are registered, they are preferred.
    if (wanted("generic")) {
        register_generic_kernels({target});
        choose_all(target, rows, "generic");
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
        choose_all(target, rows, "specialised");
    }
}

void BenchKernels::choose_all(const TargetInfo &target, const std::vector<BenchRow> &rows, const std::string &kind) {
    const std::string any = "@" + target.name;
    for (const BenchRow &row : rows) {
        qconv_layer_config config = row.config;
        config.kernel = any.c_str();
        // A row that no kernel serves is reported when its turn comes, by the layer it cannot create.
        std::string choice = any;
        try {
            choice = select_kernel(config, cpu_features()).name + any;
        } catch (const std::exception &) {
        }
        choices_[kind].push_back(choice);
    }
}

}  // namespace qconv::tools
