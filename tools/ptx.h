// Figures of PTX, the text that CUDA kernels are embedded as.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace qconv::tools {

/// One `.entry`: a kernel that runs on the GPU.
struct PtxEntry {
    std::string name;
    std::size_t instructions = 0;
    std::size_t registers = 0;                            // virtual ones, before the driver's compiler allocates
    std::uint64_t shared_bytes = 0;                       // declared in the text
    std::vector<std::pair<std::string, std::size_t>> mix; // opcode with its type, the most frequent first
    /// The innermost loop with the most arithmetic, as lines; empty if there is no loop.
    std::vector<std::string> hot_loop;
    std::vector<std::pair<std::string, std::size_t>> hot_mix;
};

struct PtxModule {
    std::string version, target;    // "8.4", "sm_80"
    std::uint64_t shared_bytes = 0; // declared outside entries
    std::vector<PtxEntry> entries;
};

/// Never throws: what is not recognised is counted as nothing.
PtxModule parse_ptx(const std::string &text);

} // namespace qconv::tools
