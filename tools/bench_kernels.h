// The kernels that a bench run times: which ones serve a row, generic or specialised.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/bench.h"
#include "tools/targets.h"

namespace qconv::tools {

class BenchKernels {
public:
    /// Loads the kernels of `target` of every kind in `kinds` ("generic", "specialised": compiled now, for each row).
    /// `forced` names the generic kernel for every row, of the one op of `work`; "" leaves the choice to the runtime.
    BenchKernels(const TargetInfo &target, const std::vector<BenchRow> &rows, const BenchWork &work,
                 const std::vector<std::string> &kinds, const std::string &forced);

    /// What to force: the best kernels of that kind for a row, by its index.
    const KernelChoice &choose(size_t row, const std::string &kind) const { return choices_.at(kind).at(row); }

    /// Every registered kernel of the target that can serve the one op of this layer, in the same form.
    std::vector<std::string> candidates(const qconv_layer_config &config) const;

private:
    void choose_all(const std::vector<BenchRow> &rows, const std::string &kind, const std::string &forced);

    std::string target_;
    BenchWork work_;
    std::map<std::string, std::vector<KernelChoice>> choices_;
};

} // namespace qconv::tools
