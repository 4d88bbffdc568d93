#include "tools/inspect/simulate.h"

#include <fmt/format.h>
#include <llvm/MCA/Context.h>
#include <llvm/MCA/CustomBehaviour.h>
#include <llvm/MCA/HWEventListener.h>
#include <llvm/MCA/InstrBuilder.h>
#include <llvm/MCA/Pipeline.h>
#include <llvm/MCA/SourceMgr.h>
#include <llvm/MCA/Support.h>

#include <algorithm>
#include <map>
#include <stdexcept>

namespace qconv::inspect {
namespace {

namespace mca = llvm::mca;

/// Adds up how long each unit is busy.
class Meter : public mca::HWEventListener {
public:
    void onEvent(const mca::HWInstructionEvent &event) override {
        if (event.Type == mca::HWInstructionEvent::Dispatched)
            micro_ops += static_cast<const mca::HWInstructionDispatchedEvent &>(event).MicroOpcodes;
        if (event.Type != mca::HWInstructionEvent::Issued) return;
        const auto &issued = static_cast<const mca::HWInstructionIssuedEvent &>(event);
        for (const auto &[unit, cycles] : issued.UsedResources)
            busy[unit] += static_cast<double>(cycles.getNumerator()) / cycles.getDenominator();
    }

    std::map<mca::ResourceRef, double> busy;
    double micro_ops = 0;
};

template <class Target>
std::unique_ptr<Target> or_default(Target *specific, const auto &...arguments) {
    return std::unique_ptr<Target>(specific ? specific : new Target(arguments...));
}

/// Names the units of a scheduling model by what listeners are told: the index of the resource and the bit of the unit.
std::string unit_name(const llvm::MCSchedModel &model, const mca::ResourceRef &unit) {
    const llvm::MCProcResourceDesc &resource = *model.getProcResource(static_cast<unsigned>(unit.first));
    if (resource.NumUnits == 1) return resource.Name;
    return fmt::format("{}.{}", resource.Name, llvm::Log2_64(unit.second));
}

} // namespace

Simulation simulate(const Machine &machine, const llvm::MCSubtargetInfo &cpu, const std::vector<llvm::MCInst> &body) {
    constexpr unsigned kIterations = 200;
    const llvm::Target &target = machine.target();
    const llvm::MCInstrInfo &instructions = machine.instructions();
    const auto instruments =
        or_default<mca::InstrumentManager>(target.createInstrumentManager(cpu, instructions), cpu, instructions);
    const auto finish =
        or_default<mca::InstrPostProcess>(target.createInstrPostProcess(cpu, instructions), cpu, instructions);
    mca::InstrBuilder builder(cpu, instructions, machine.registers(), machine.analysis(), *instruments, 100);
    llvm::SmallVector<std::unique_ptr<mca::Instruction>> lowered;
    for (const llvm::MCInst &instruction : body) {
        auto built = builder.createInstruction(instruction, {});
        if (!built) {
            llvm::consumeError(built.takeError());
            throw std::runtime_error(
                fmt::format("{} has no {}", cpu.getCPU().str(), instructions.getName(instruction.getOpcode()).str()));
        }
        finish->postProcessInstruction(*built.get(), instruction);
        lowered.push_back(std::move(built.get()));
    }

    const llvm::MCSchedModel &model = cpu.getSchedModel();
    const auto run = [&](unsigned iterations, Meter &meter) {
        mca::CircularSourceMgr source(lowered, iterations);
        const auto behaviour = or_default<mca::CustomBehaviour>(target.createCustomBehaviour(cpu, source, instructions),
                                                                cpu, source, instructions);
        mca::Context context(machine.registers(), cpu);
        // All zero: what the scheduling model says.
        const mca::PipelineOptions options(0, 0, 0, 0, 0, 0, /*NoAlias=*/true);
        const auto pipeline = model.isOutOfOrder() ? context.createDefaultPipeline(options, source, *behaviour)
                                                   : context.createInOrderPipeline(options, source, *behaviour);
        pipeline->addEventListener(&meter);
        auto cycles = pipeline->run();
        if (!cycles) throw std::runtime_error(llvm::toString(cycles.takeError()));
        return static_cast<double>(*cycles);
    };
    // The difference of a long and a short run leaves out the filling and the draining of the pipeline.
    Meter warm_up, meter;
    const double start = run(kIterations, warm_up);
    const double cycles = run(2 * kIterations, meter) - start;

    Simulation result;
    result.cycles = cycles / kIterations;
    result.instructions = static_cast<double>(body.size()) / result.cycles;
    result.micro_ops = meter.micro_ops / (2 * kIterations);
    for (const auto &[unit, busy] : meter.busy)
        result.units.push_back({unit_name(model, unit), busy / (2 * kIterations)});
    std::stable_sort(result.units.begin(), result.units.end(),
                     [](const UnitPressure &a, const UnitPressure &b) { return a.cycles > b.cycles; });
    result.bound = result.micro_ops / model.IssueWidth;
    if (!result.units.empty()) result.bound = std::max(result.bound, result.units.front().cycles);
    return result;
}

} // namespace qconv::inspect
