// llvm-mca: how many cycles a CPU's scheduling model takes for a loop, and which of its units are busy.
#pragma once

#include <vector>

#include "tools/inspect/inspect.h"
#include "tools/inspect/machine.h"

namespace qconv::inspect {

/// Runs the instructions as a loop's body, over and over, with every load a hit in the first cache. Throws
/// std::runtime_error naming an instruction that the CPU does not have.
Simulation simulate(const Machine &machine, const llvm::MCSubtargetInfo &cpu, const std::vector<llvm::MCInst> &body);

} // namespace qconv::inspect
