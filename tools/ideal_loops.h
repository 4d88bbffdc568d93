// The ideal loop of each path and architecture, as assembly text: what a kernel's hot loop is held against.
#pragma once

#include <string>

#include "tools/inspect/inspect.h"
#include "tools/targets.h"

namespace qconv::tools {

/// x86: the loops whose speed `qconvc bench` measures. ARM: 128-bit vectors with as many accumulators. Empty for f32b1,
/// which multiplies by additions alone, and for an architecture without any.
inspect::PeakLoop ideal_loop(const TargetInfo &target, qconv_path path);

/// What it consists of: "vpxord + vpopcntd + vpaddd, zmm".
std::string ideal_instructions(const TargetInfo &target, qconv_path path);

/// The CPU that stands for a target unless one is named: the first with all of its features that LLVM has a scheduling
/// model of. "" for a GPU.
std::string typical_cpu(const TargetInfo &target);

} // namespace qconv::tools
