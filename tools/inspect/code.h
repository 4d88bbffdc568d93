// A function's loops, and how many multiply-accumulates their instructions stand for.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/inspect/inspect.h"
#include "tools/inspect/machine.h"

namespace qconv::inspect {

/// Instructions [first, last] of a function: a branch back to `first` and all it jumps over.
struct Loop {
    std::size_t first = 0, last = 0;
};

/// The loops that hold no other loop and no call, in order.
std::vector<Loop> innermost_loops(const std::vector<Instruction> &function);

/// The arithmetic of one pass through a loop, as a path's kernels do it: xor and popcount; dot products; lookups of
/// table entries, which are sums; multiplications and additions of floats.
struct Arithmetic {
    double macs = 0;                       // 0: not a loop of that path
    std::vector<std::size_t> instructions; // that do it: indices into the function
};
Arithmetic arithmetic_of(const llvm::Triple &triple, const std::vector<Instruction> &function, const Loop &loop,
                         const KernelFacts &facts);

/// The path that a loop's instructions show, for a kernel of which nothing is known.
std::optional<qconv_path> guess_path(const llvm::Triple &triple, const std::vector<Instruction> &function,
                                     const Loop &loop);

/// "vaddps" as "addps" and so on: without the prefix of the VEX and NEON encodings, and without the type after it.
std::string plain_mnemonic(const llvm::Triple &triple, const Instruction &instruction);

} // namespace qconv::inspect
