#include "tools/tune_estimate.h"

#include <fmt/format.h>

#include <algorithm>

#include "qconv/layout.h"
#include "tools/ideal_loops.h"
#include "tools/inspect_module.h"

namespace qconv::tools {

double padded_macs(const TuneUnit &unit, const qconv_kernel &kernel) {
    const qconv_layer_config &c = unit.layer.config;
    const int64_t channels = c.in_channels / c.groups, outputs = c.out_channels / c.groups;
    const CallSizes sizes = unit.sizes();
    double window = static_cast<double>(channels * c.kernel_size);
    double results = static_cast<double>(outputs);
    if (unit.op == QCONV_OP_FORWARD) {
        const PackedShape packed = packed_shape(kernel, channels, outputs, c.kernel_size);
        if (kernel.word_bits > 0) {
            const int elements = kernel.word_bits / kernel.element_bits;
            window = static_cast<double>(packed.steps * packed.rows * elements);
        } else if (kernel.tables > 0) {
            window = static_cast<double>(packed.chunks * kernel.tables * kernel.table_channels * c.kernel_size);
        }
        if (kernel.path != QCONV_PATH_F32B1) results = static_cast<double>(packed.out_blocks * kernel.out_block);
    }
    return window * results * static_cast<double>(c.groups * sizes.width_out * sizes.batch);
}

void estimate_trial(Trial &trial, const std::string &core, const BuildSettings &settings) {
    static inspect::InspectFunction *const inspect = load_inspect_module();
    const qconv_kernel &kernel = trial.candidate.row.layout;
    const std::string cpu = core.empty() ? typical_cpu(trial.unit.target) : core;
    inspect::Questions questions;
    questions.facts = [&](const inspect::ObjectReport &) {
        return inspect::KernelFacts{kernel.path, std::max(1, kernel.input_planes * kernel.weight_planes),
                                    kernel.table_channels};
    };
    questions.cpu = [&](const inspect::ObjectReport &) { return std::string(cpu); };
    questions.peak = [](const inspect::ObjectReport &, qconv_path) { return inspect::PeakLoop{}; };
    std::vector<inspect::ObjectReport> reports;
    inspect(settings.folder / (trial.record["id"].get<std::string>() + ".o"), questions, reports);
    const inspect::LoopReport *loop = nullptr;
    for (const inspect::ObjectReport &report : reports)
        if (report.hot_loop) loop = &*report.hot_loop;
    if (!loop) return trial.fail("no-estimate", "no loop has the instructions of this path's multiply-adds");
    if (!loop->simulation) return trial.fail("no-estimate", loop->no_simulation);
    constexpr double kCyclesPerMicrosecond = 1000;
    const double cycles = loop->simulation->cycles;
    const double time = padded_macs(trial.unit, kernel) / loop->macs * cycles / kCyclesPerMicrosecond;
    const qconv_layer_config &c = trial.unit.layer.config;
    const CallSizes sizes = trial.unit.sizes();
    const int64_t group_channels = c.in_channels / c.groups;
    const double macs = static_cast<double>(c.out_channels * group_channels * c.kernel_size) *
                        static_cast<double>(sizes.width_out * sizes.batch);
    const double percent = loop->limit ? 100 * loop->macs / cycles / *loop->limit : 0;
    trial.record["machine"]["cpu"] = "estimate for " + cpu;
    trial.record["result"] = {{"time_us", time},
                              {"repeats_us", std::vector<double>{time}},
                              {"macs", macs},
                              {"gmacs", macs / time / 1e3},
                              {"percent_of_peak", percent},
                              {"estimate", fmt::format("llvm-mca for {}: the hottest loop alone, at 1 GHz", cpu)},
                              {"loop_cycles", cycles},
                              {"loop_macs", loop->macs}};
}

} // namespace qconv::tools
