#include "tools/bench_kernels.h"

#include <algorithm>

#include "runtime/arithmetic.h"
#include "runtime/cpu_features.h"
#include "runtime/registry.h"
#include "tools/kernel_loading.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {

BenchKernels::BenchKernels(const TargetInfo &target, const std::vector<BenchRow> &rows, const BenchWork &work,
                           const std::vector<std::string> &kinds, const std::string &forced)
    : target_(target.name), work_(work) {
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
            layer.config = timed_config(rows[i].config, work_, {});
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
        KernelChoice choice;
        for (const qconv_op op : work_)
            choice[op] = forced + "@" + target_;
        const qconv_layer_config config = timed_config(row.config, work_, choice);
        KernelChoice &chosen = choices_[kind].emplace_back(choice);
        try {
            for (const qconv_op op : work_)
                chosen[op] = std::string(select_kernel(config, op, cpu_features()).name) + "@" + target_;
        } catch (const std::exception &) {
            // A row that no kernel serves is reported when its turn comes, by the layer it cannot create.
            continue;
        }
    }
}

std::vector<std::string> BenchKernels::candidates(const qconv_layer_config &config) const {
    const qconv_layer_config directed = timed_config(config, work_, {});
    std::vector<std::string> names;
    for (size_t i = 0; i < qconv_kernel_count(); i++) {
        const qconv_kernel &kernel = *qconv_kernel_at(i);
        if (kernel.op == work_.front() && kernel.target == target_ && !mismatch(kernel, directed))
            names.push_back(std::string(kernel.name) + "@" + target_);
    }
    return names;
}

} // namespace qconv::tools
