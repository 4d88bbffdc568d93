// What qconvc inspect found, as text and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/emit.h"
#include "tools/inspect/inspect.h"
#include "tools/ptx.h"
#include "tools/targets.h"

namespace qconv::tools {

/// What ptxas says of one GPU kernel; absent where it is not installed.
struct PtxAssembled {
    std::string entry;
    int registers = 0, stack_bytes = 0, spill_bytes = 0, shared_bytes = 0;
};

/// One object of a library, with what qconvc knows of it.
struct Inspected {
    inspect::ObjectReport object;
    const KernelRow *row = nullptr;     // the kernel list's; NULL if unknown
    const TargetInfo *target = nullptr; // likewise
    std::string cpu;                    // of the simulation
    std::vector<PtxModule> device;
    std::vector<PtxAssembled> assembled;
};

nlohmann::ordered_json inspected_json(const Inspected &inspected);
void print_inspected(const Inspected &inspected);
/// One line a kernel, for many.
void print_inspected_table(const std::vector<Inspected> &inspected);

} // namespace qconv::tools
