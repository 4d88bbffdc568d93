// The targets kernels are compiled for: short names, and what Halide calls them.
#pragma once

#include <string>
#include <vector>

namespace qconv::tools {

struct TargetInfo {
    std::string name;   // as in kernels.json, --target and the registry
    std::string halide; // Halide's target string
};

/// From the least to the most demanding.
const std::vector<TargetInfo> &known_targets();

/// Resolves a short name or a Halide target string of one of its families. Throws InputError with the nearest name
/// otherwise.
const TargetInfo &find_target(const std::string &text);

// What follows looks at this CPU.

/// find_target for each, without repeats, in the order given. "host" stands for the most demanding target this CPU
/// supports, "all" for every target.
std::vector<TargetInfo> find_targets(const std::vector<std::string> &texts);

/// Targets this CPU supports, from the least to the most demanding.
std::vector<TargetInfo> supported_targets();

/// The first feature that a target needs and this CPU lacks; "" if none.
std::string missing_cpu_feature(const TargetInfo &target);

/// Throws EnvironmentError naming the missing feature if this CPU cannot run kernels of `target`.
void require_cpu_support(const TargetInfo &target);

} // namespace qconv::tools
