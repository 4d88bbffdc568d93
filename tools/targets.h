// The targets kernels are compiled for: short names, and what Halide calls them.
#pragma once

#include <string>
#include <vector>

namespace qconv::tools {

struct TargetInfo {
    std::string name;   // as in kernels.json, --target and the registry
    std::string halide; // Halide's target string
    std::string label;  // in file and symbol names: the name, and the operating system where it is not Linux
};

/// Of CPUs, one architecture after the other, from the least to the most demanding.
const std::vector<TargetInfo> &known_targets();
/// Of GPUs.
const std::vector<TargetInfo> &known_device_targets();

/// Resolves a short name or a Halide target string: the most demanding target of its architecture whose last feature it
/// names, on its operating system. Throws InputError for others, and for features beyond that target's.
TargetInfo find_target(const std::string &text);

/// "x86-64-linux": what one Halide runtime serves.
std::string platform(const TargetInfo &target);
/// "libNAME.a", or "NAME.lib" for Windows.
std::string archive_file(const std::string &name, const TargetInfo &target);

// What follows looks at this CPU.

/// find_target for each, without repeats, in the order given. "host" stands for the most demanding target this CPU
/// supports, "all" for every target of its architecture.
std::vector<TargetInfo> find_targets(const std::vector<std::string> &texts);

/// Targets this CPU supports, from the least to the most demanding.
std::vector<TargetInfo> supported_targets();

/// The first feature that a target needs and this CPU lacks; "" if none.
std::string missing_cpu_feature(const TargetInfo &target);

/// Throws EnvironmentError if this machine cannot run kernels of `target`: another operating system, or a feature that
/// its CPU lacks.
void require_cpu_support(const TargetInfo &target);

} // namespace qconv::tools
