// The targets that this build has kernels of, and this machine runs.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "runtime/cpu_features.h"
#include "support/catch.h"

namespace qconv::test {

/// Those with generic kernels in this build, the preferred first.
inline std::vector<KernelTarget> built_targets() {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    std::set<std::string> names;
    for (size_t i = 0; i < qconv_kernel_count(); ++i) {
        if (qconv_kernel_at(i)->in_channels == 0) names.insert(qconv_kernel_at(i)->target);
    }
    std::vector<KernelTarget> built;
    for (const KernelTarget &target : kernel_targets()) {
        if (names.count(target.name) == 1) built.push_back(target);
    }
    return built;
}

/// Why kernels of `target` are not tested here; empty if they are.
inline std::string why_not(const std::string &target) {
    const char *missing = nullptr;
    if (qconv_cpu_supports(target.c_str(), &missing) == 0) return std::string("this CPU lacks ") + missing;
    for (const KernelTarget &built : built_targets()) {
        if (built.name == target) return "";
    }
    return "this build has no kernels of it (QCONV_TARGETS)";
}

/// Of the built ones, those that this CPU supports.
inline std::vector<std::string> runnable_targets() {
    std::vector<std::string> names;
    for (const KernelTarget &target : built_targets()) {
        if (qconv_cpu_supports(target.name, nullptr) != 0) names.emplace_back(target.name);
    }
    REQUIRE_FALSE(names.empty());
    return names;
}

} // namespace qconv::test
