#include "tools/inspect/code.h"

#include <algorithm>
#include <string_view>

namespace qconv::inspect {
namespace {

/// What the vector instructions of a loop do, in elements of a pass.
struct Work {
    double popcount_bits = 0;
    double nibble_bits = 0; // looked up by nibbles, each byte twice
    double xor_bits = 0;
    double dot = 0;                                   // products of 8 or 16-bit integers
    double multiplied = 0, added = 0, subtracted = 0; // floats
    double adds = 0, stores = 0;                      // instructions
};

bool is_any(std::string_view word, std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

/// The element size that an ARM instruction names: 32 of "fmla v0.4s, ..." and of "vmla.f32".
int element_bits(const Instruction &instruction) {
    for (const std::string &text : {instruction.mnemonic, instruction.operands}) {
        for (const auto &[suffix, bits] : {std::pair{".4s", 32},
                                           {".2s", 32},
                                           {".s", 32},
                                           {".f32", 32},
                                           {".8h", 16},
                                           {".4h", 16},
                                           {".h", 16},
                                           {".s16", 16},
                                           {".u16", 16},
                                           {".16b", 8},
                                           {".8b", 8},
                                           {".b", 8},
                                           {".s8", 8},
                                           {".u8", 8},
                                           {".8", 8}}) {
            if (text.find(suffix) != text.npos) return bits;
        }
    }
    return 0;
}

void add_x86(const Instruction &instruction, std::string_view name, Work &work) {
    const double bits = instruction.vector_bits;
    if (is_any(name, {"popcntb", "popcntw", "popcntd", "popcntq"})) work.popcount_bits += bits;
    if (name == "pshufb") work.nibble_bits += bits / 2;
    if (is_any(name, {"pxor", "pxord", "pxorq", "xorps", "xorpd"})) work.xor_bits += bits;
    if (name.starts_with("pdpbusd") || name == "pmaddubsw") work.dot += bits / 8;
    if (name.starts_with("pdpwssd") || name == "pmaddwd") work.dot += bits / 16;
    const bool fused = name.starts_with("fmadd") || name.starts_with("fnmadd");
    if (name == "mulps" || (fused && name.ends_with("ps"))) work.multiplied += bits / 32;
    if (name == "addps") work.added += bits / 32;
    if (name == "subps") work.subtracted += bits / 32;
}

void add_arm(const Instruction &instruction, std::string_view name, Work &work) {
    const double bits = instruction.vector_bits;
    const int element = element_bits(instruction);
    const double lanes = element ? bits / element : 0;
    const bool floats = name.starts_with("f") || instruction.mnemonic.find(".f32") != std::string::npos;
    if (name == "cnt") work.popcount_bits += bits;
    if (name == "eor") work.xor_bits += bits;
    // Widening products name the wide result first; theirs are as many as its lanes.
    if (is_any(name, {"sdot", "udot", "usdot"})) work.dot += bits / 8;
    if (is_any(name, {"smmla", "ummla", "usmmla"})) work.dot += bits / 4;
    if (is_any(name, {"smlal", "smlal2", "umlal", "umlal2", "smull", "smull2", "umull", "umull2", "mlal", "mull"}))
        work.dot += lanes;
    if (floats && is_any(name, {"fmla", "fmul", "mla", "mul", "fma"})) work.multiplied += lanes;
    if (floats && is_any(name, {"fadd", "add"})) work.added += lanes;
    if (floats && is_any(name, {"fsub", "sub"})) work.subtracted += lanes;
}

Work work_of(const llvm::Triple &triple, const Instruction &instruction) {
    Work work;
    if (instruction.vector_bits == 0) return work;
    const std::string name = plain_mnemonic(triple, instruction);
    triple.isX86() ? add_x86(instruction, name, work) : add_arm(instruction, name, work);
    work.adds = work.added > 0 ? 1 : 0;
    work.stores = instruction.stores ? 1 : 0;
    return work;
}

Work work_of(const llvm::Triple &triple, const std::vector<Instruction> &function, const Loop &loop) {
    Work sum;
    for (std::size_t i = loop.first; i <= loop.last; i++) {
        const Work work = work_of(triple, function[i]);
        sum.popcount_bits += work.popcount_bits, sum.nibble_bits += work.nibble_bits, sum.xor_bits += work.xor_bits;
        sum.dot += work.dot, sum.multiplied += work.multiplied, sum.added += work.added;
        sum.subtracted += work.subtracted, sum.stores += work.stores, sum.adds += work.adds;
    }
    return sum;
}

/// Bits counted against bits compared; a shuffle of bytes alone may be any other thing.
double counted_bits(const Work &work) {
    return work.popcount_bits > 0 ? work.popcount_bits : std::min(work.nibble_bits, work.xor_bits);
}

/// Entries added up. Loops that build tables also subtract, or store every sum.
double looked_up(const Work &work) {
    return work.subtracted == 0 && work.multiplied == 0 && 2 * work.stores <= work.adds ? work.added : 0;
}

double macs_of(const Work &work, const KernelFacts &facts) {
    switch (facts.path.value_or(QCONV_PATH_F32F32)) {
        case QCONV_PATH_B1B1:
            return counted_bits(work) / facts.planes;
        case QCONV_PATH_INT8:
            return work.dot;
        case QCONV_PATH_F32B1:
            return looked_up(work) * facts.table_channels;
        default:
            return work.multiplied;
    }
}

/// Whether an instruction's work is part of what macs_of counts.
bool counts(const Work &work, qconv_path path) {
    switch (path) {
        case QCONV_PATH_B1B1:
            return work.popcount_bits + work.nibble_bits + work.xor_bits > 0;
        case QCONV_PATH_INT8:
            return work.dot > 0;
        case QCONV_PATH_F32B1:
            return work.added > 0;
        default:
            return work.multiplied > 0;
    }
}

} // namespace

std::string plain_mnemonic(const llvm::Triple &triple, const Instruction &instruction) {
    std::string_view name = instruction.mnemonic;
    if (triple.isX86() || triple.isARM()) {
        if (name.starts_with("v") && instruction.vector_bits > 0) name.remove_prefix(1);
    }
    return std::string(name.substr(0, name.find('.')));
}

std::vector<Loop> innermost_loops(const std::vector<Instruction> &function) {
    std::map<std::int64_t, std::size_t> at;
    for (std::size_t i = 0; i < function.size(); i++)
        at[static_cast<std::int64_t>(function[i].address)] = i;
    std::vector<Loop> loops;
    for (std::size_t i = 0; i < function.size(); i++) {
        const auto target = at.find(function[i].target);
        if (target != at.end() && target->second <= i) loops.push_back({target->second, i});
    }
    std::vector<Loop> innermost;
    for (const Loop &loop : loops) {
        const bool holds_another = std::any_of(loops.begin(), loops.end(), [&](const Loop &other) {
            return other.first >= loop.first && other.last <= loop.last &&
                   (other.first != loop.first || other.last != loop.last);
        });
        const bool calls = std::any_of(function.begin() + static_cast<std::ptrdiff_t>(loop.first),
                                       function.begin() + static_cast<std::ptrdiff_t>(loop.last) + 1,
                                       [](const Instruction &instruction) { return instruction.calls; });
        if (!holds_another && !calls) innermost.push_back(loop);
    }
    return innermost;
}

Arithmetic arithmetic_of(const llvm::Triple &triple, const std::vector<Instruction> &function, const Loop &loop,
                         const KernelFacts &facts) {
    Arithmetic arithmetic{macs_of(work_of(triple, function, loop), facts), {}};
    for (std::size_t i = loop.first; i <= loop.last; i++) {
        if (counts(work_of(triple, function[i]), facts.path.value_or(QCONV_PATH_F32F32)))
            arithmetic.instructions.push_back(i);
    }
    return arithmetic;
}

std::optional<qconv_path> guess_path(const llvm::Triple &triple, const std::vector<Instruction> &function,
                                     const Loop &loop) {
    const Work work = work_of(triple, function, loop);
    if (counted_bits(work) > 0) return QCONV_PATH_B1B1;
    if (work.dot > 0) return QCONV_PATH_INT8;
    if (work.multiplied > 0) return QCONV_PATH_F32F32;
    if (looked_up(work) > 0) return QCONV_PATH_F32B1;
    return std::nullopt;
}

} // namespace qconv::inspect
