#include "tools/inspect/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "tools/inspect/code.h"
#include "tools/inspect/machine.h"
#include "tools/inspect/object.h"
#include "tools/inspect/simulate.h"

namespace qconv::inspect {
namespace {

struct Decoded {
    std::string name;
    std::vector<Instruction> instructions;
};

void count_instructions(const std::vector<Decoded> &functions, const llvm::Triple &triple, ObjectReport &report) {
    std::map<std::string, std::size_t> counts;
    for (const Decoded &function : functions) {
        report.instructions += function.instructions.size();
        for (const Instruction &instruction : function.instructions) {
            report.widths[instruction.vector_bits]++;
            if (instruction.vector_bits > 0) counts[plain_mnemonic(triple, instruction)]++;
        }
    }
    report.mnemonics.assign(counts.begin(), counts.end());
    std::stable_sort(report.mnemonics.begin(), report.mnemonics.end(),
                     [](const auto &a, const auto &b) { return a.second > b.second; });
}

struct HotLoop {
    const Decoded *function = nullptr;
    Loop loop;
    KernelFacts facts;
    Arithmetic arithmetic;
};

/// The innermost loop with the most arithmetic in a pass; of equals the shortest. Each path multiplies at one place
/// (unrolled at most a few ways), and the other loops, which quantize, pack and write, hold less of its arithmetic.
HotLoop find_hot_loop(const std::vector<Decoded> &functions, const llvm::Triple &triple, const KernelFacts &facts) {
    HotLoop best;
    for (const Decoded &function : functions) {
        for (const Loop &loop : innermost_loops(function.instructions)) {
            KernelFacts known = facts;
            if (!known.path) known.path = guess_path(triple, function.instructions, loop);
            if (!known.path) continue;
            Arithmetic found = arithmetic_of(triple, function.instructions, loop, known);
            const double macs = found.macs, most = best.arithmetic.macs;
            const bool shorter = best.function && loop.last - loop.first < best.loop.last - best.loop.first;
            if (macs > most || (macs > 0 && macs == most && shorter)) best = {&function, loop, known, std::move(found)};
        }
    }
    return best;
}

std::string line(const Instruction &instruction) {
    return fmt::format("{:<14} {}", instruction.mnemonic, instruction.operands);
}

void simulate_loop(const Machine &machine, const HotLoop &hot, const std::string &cpu, const PeakLoop &peak,
                   LoopReport &report) {
    if (cpu.empty()) {
        report.no_simulation = "no CPU was named";
        return;
    }
    const auto info = machine.subtarget(cpu);
    std::vector<llvm::MCInst> body, arithmetic;
    for (std::size_t i = hot.loop.first; i <= hot.loop.last; i++)
        body.push_back(hot.function->instructions[i].code);
    for (const std::size_t i : hot.arithmetic.instructions)
        arithmetic.push_back(hot.function->instructions[i].code);
    try {
        report.simulation = simulate(machine, *info, body);
        // Scheduling models charge some instructions less when an operand is in memory, so an ideal loop on registers
        // alone could be slower than the kernel.
        report.limit = report.macs / simulate(machine, *info, arithmetic).bound;
    } catch (const std::runtime_error &error) {
        report.no_simulation = error.what();
        return;
    }
    if (peak.assembly.empty()) return;
    const double ideal = peak.macs / hot.facts.planes / simulate(machine, *info, machine.parse(peak.assembly)).cycles;
    // A popcount by lookups is more than the instructions that were counted.
    report.limit_is_ideal = *hot.facts.path == QCONV_PATH_B1B1 || ideal > *report.limit;
    if (report.limit_is_ideal) report.limit = ideal;
}

void analyse(Object &object, const Questions &questions, std::map<std::string, std::unique_ptr<Machine>> &machines) {
    ObjectReport &report = object.report;
    std::unique_ptr<Machine> &machine = machines[object.triple.str()];
    if (!machine) machine = std::make_unique<Machine>(object.triple);
    std::vector<Decoded> functions;
    for (const Function &function : object.functions)
        functions.push_back({function.name, machine->decode(function.bytes)});
    count_instructions(functions, object.triple, report);
    if (report.kernel.empty()) return;

    const HotLoop hot = find_hot_loop(functions, object.triple, questions.facts(report));
    if (!hot.function) return;
    LoopReport &loop = report.hot_loop.emplace();
    loop.function = hot.function->name;
    loop.offset = hot.function->instructions[hot.loop.first].address;
    loop.path = *hot.facts.path;
    loop.macs = hot.arithmetic.macs;
    for (std::size_t i = hot.loop.first; i <= hot.loop.last; i++)
        loop.lines.push_back(line(hot.function->instructions[i]));
    simulate_loop(*machine, hot, questions.cpu(report), questions.peak(report, loop.path), loop);
}

} // namespace
} // namespace qconv::inspect

void qconv_inspect(const std::string &file, const qconv::inspect::Questions &questions,
                   std::vector<qconv::inspect::ObjectReport> &reports) {
    using namespace qconv::inspect;
    std::map<std::string, std::unique_ptr<Machine>> machines;
    read_objects(file, [&](Object &object) {
        analyse(object, questions, machines);
        reports.push_back(std::move(object.report));
    });
}
