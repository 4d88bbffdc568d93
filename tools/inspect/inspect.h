// What is in a library of kernels: the interface of a module that uses LLVM's libraries, which qconvc loads when it is
// asked to inspect. It knows objects and instructions; what a kernel is for, it is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qconv/qconv.h"

namespace qconv::inspect {

struct UnitPressure {
    std::string unit;  // the scheduling model's name: "Zn4FP0", "HWPort5"
    double cycles = 0; // busy, an iteration
};

/// A loop on a CPU's scheduling model, by llvm-mca. Every load hits the first cache.
struct Simulation {
    double cycles = 0;               // an iteration, in the steady state
    double bound = 0;                // cycles an iteration that units and dispatch alone would take
    double instructions = 0;         // a cycle
    double micro_ops = 0;            // an iteration
    std::vector<UnitPressure> units; // those in use, the busiest first
};

/// The loop that does most of a kernel's arithmetic.
struct LoopReport {
    std::string function;
    std::uint64_t offset = 0; // of its first instruction, in the function
    std::vector<std::string> lines;
    qconv_path path = QCONV_PATH_F32F32;
    double macs = 0; // an iteration
    std::optional<Simulation> simulation;
    std::optional<double> limit; // MACs a cycle at best on the same CPU
    bool limit_is_ideal = false; // of the ideal loop; else of this loop's own arithmetic, without the rest
    std::string no_simulation;   // why there is none
};

/// One object file: one kernel, or the Halide runtime.
struct ObjectReport {
    std::string name;   // of the archive's member, or of the file
    std::string format; // "elf64-x86-64"
    std::string architecture;
    std::string kernel;        // the function behind the entry "..._argv"; "" if there is none
    std::string halide_target; // "" unless the kernel says so
    std::uint64_t file_bytes = 0, code_bytes = 0, constant_bytes = 0, data_bytes = 0;
    std::vector<std::string> defined, undefined; // global symbols
    std::size_t instructions = 0;
    std::map<int, std::size_t> widths;                          // bits of the widest register: instructions
    std::vector<std::pair<std::string, std::size_t>> mnemonics; // of vector instructions, the most frequent first
    std::optional<LoopReport> hot_loop;
    std::vector<std::string> device_code; // PTX
};

/// What cannot be read off a kernel's instructions.
struct KernelFacts {
    std::optional<qconv_path> path; // nullopt: guess
    int planes = 1;                 // b1b1: pairs of bit-planes that make one product
    int table_channels = 0;         // f32b1: products in one table entry
};

/// An ideal loop of one path: as fast as the arithmetic goes when nothing else is in the way.
struct PeakLoop {
    std::string assembly; // "": the arithmetic of the kernel's own loop is the only measure
    double macs = 0;      // of one pass
};

/// Answers of the caller about a kernel.
struct Questions {
    std::function<KernelFacts(const ObjectReport &)> facts;
    std::function<std::string(const ObjectReport &)> cpu; // "": simulate nothing
    std::function<PeakLoop(const ObjectReport &, qconv_path)> peak;
};

/// Analyses every object of `file`, a static library or an object file. Throws std::runtime_error.
using InspectFunction = void(const std::string &file, const Questions &questions, std::vector<ObjectReport> &reports);

} // namespace qconv::inspect

extern "C" {
/// The module's one symbol.
__attribute__((visibility("default"))) qconv::inspect::InspectFunction qconv_inspect;
}
