// A candidate's time as llvm-mca predicts it, for targets that cannot run here.
#pragma once

#include <string>

#include "tools/tune_build.h"

namespace qconv::tools {

/// Notes in a built trial the estimate: llvm-mca's throughput of the innermost loop that does most of
/// the kernel's multiply-adds, at 1 GHz, with every access a hit in L1; packing, tables and the rest are not in it.
/// `core` is a processor that LLVM has a model of; "": the one that stands for the target.
void estimate_trial(Trial &trial, const std::string &core, const BuildSettings &settings);

/// Multiply-adds of a layer as the kernel makes them: with the elements and outputs that fill up its blocks.
double padded_macs(const TuneUnit &unit, const qconv_kernel &kernel);

} // namespace qconv::tools
