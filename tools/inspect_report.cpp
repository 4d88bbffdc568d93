#include "tools/inspect_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/ideal_loops.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

using Json = nlohmann::ordered_json;
using inspect::LoopReport;
using inspect::ObjectReport;

Json counts_json(const std::vector<std::pair<std::string, std::size_t>> &counts) {
    Json json = Json::object();
    for (const auto &[name, count] : counts)
        json[name] = count;
    return json;
}

/// What the limit is the limit of.
std::string limit_of(const Inspected &inspected) {
    const LoopReport &loop = *inspected.object.hot_loop;
    if (!loop.limit_is_ideal || !inspected.target) return "its own arithmetic alone";
    return ideal_instructions(*inspected.target, loop.path);
}

Json loop_json(const Inspected &inspected) {
    const LoopReport &loop = *inspected.object.hot_loop;
    Json json = {{"function", loop.function},          {"offset", loop.offset},           {"instructions", loop.lines},
                 {"path", qconv_path_name(loop.path)}, {"macs_per_iteration", loop.macs}, {"cpu", inspected.cpu}};
    if (!loop.simulation) {
        json["no_simulation"] = loop.no_simulation;
        return json;
    }
    const inspect::Simulation &s = *loop.simulation;
    json["cycles_per_iteration"] = s.cycles;
    json["bound_cycles_per_iteration"] = s.bound;
    json["instructions_per_cycle"] = s.instructions;
    json["micro_ops_per_iteration"] = s.micro_ops;
    json["macs_per_cycle"] = loop.macs / s.cycles;
    if (loop.limit) {
        json["limit_macs_per_cycle"] = *loop.limit;
        json["limit_of"] = limit_of(inspected);
    }
    for (const inspect::UnitPressure &unit : s.units)
        json["unit_cycles_per_iteration"][unit.unit] = unit.cycles;
    return json;
}

Json device_json(const Inspected &inspected) {
    Json list = Json::array();
    for (const PtxModule &module : inspected.device) {
        Json entries = Json::array();
        for (const PtxEntry &entry : module.entries) {
            Json json = {{"name", entry.name},
                         {"instructions", entry.instructions},
                         {"virtual_registers", entry.registers},
                         {"shared_bytes", entry.shared_bytes},
                         {"mix", counts_json(entry.mix)},
                         {"hot_loop", entry.hot_loop},
                         {"hot_loop_mix", counts_json(entry.hot_mix)}};
            for (const PtxAssembled &a : inspected.assembled) {
                if (a.entry != entry.name) continue;
                json["ptxas"] = {{"registers", a.registers},
                                 {"stack_bytes", a.stack_bytes},
                                 {"spill_bytes", a.spill_bytes},
                                 {"shared_bytes", a.shared_bytes}};
            }
            entries.push_back(std::move(json));
        }
        list.push_back({{"version", module.version}, {"target", module.target}, {"entries", std::move(entries)}});
    }
    return list;
}

/// "vpxord 48, vpopcntd 48, ..." of the most frequent.
std::string most_frequent(const std::vector<std::pair<std::string, std::size_t>> &counts, std::size_t most) {
    std::string text;
    for (std::size_t i = 0; i < std::min(most, counts.size()); i++)
        text += fmt::format("{}{} {}", i ? ", " : "", counts[i].first, counts[i].second);
    return text + (counts.size() > most ? ", ..." : "");
}

std::string first_of(const std::vector<std::string> &words, std::size_t most) {
    const std::size_t shown = std::min(most, words.size());
    const std::string text = join({words.begin(), words.begin() + static_cast<std::ptrdiff_t>(shown)}, " ");
    return text + (words.size() > most ? fmt::format(" and {} more", words.size() - most) : "");
}

void print_field(const char *name, const std::string &text) {
    if (!text.empty()) fmt::print("  {:<13} {}\n", name, text);
}

void print_loop(const Inspected &inspected) {
    const LoopReport &loop = *inspected.object.hot_loop;
    print_field("hot loop", fmt::format("{}+{:#x}: {}, {:.0f} MACs an iteration", loop.function, loop.offset,
                                        counted(loop.lines.size(), "instruction"), loop.macs));
    for (const std::string &line : loop.lines)
        fmt::print("      {}\n", line);
    if (!loop.simulation) {
        print_field("llvm-mca", "none: " + loop.no_simulation);
        return;
    }
    const inspect::Simulation &s = *loop.simulation;
    const double rate = loop.macs / s.cycles;
    print_field("llvm-mca", fmt::format("{}: {:.2f} cycles an iteration ({:.2f} by its units and dispatch alone), "
                                        "{:.2f} instructions a cycle",
                                        inspected.cpu, s.cycles, s.bound, s.instructions));
    std::string limit;
    if (loop.limit) {
        limit = fmt::format(", {:.1f}% of {:.1f} ({})", 100 * rate / *loop.limit, *loop.limit, limit_of(inspected));
    }
    print_field("MACs a cycle", fmt::format("{:.1f}{}", rate, limit));
    std::string units;
    for (std::size_t i = 0; i < std::min<std::size_t>(8, s.units.size()); i++)
        units += fmt::format("{}{} {:.2f}", i ? ", " : "", s.units[i].unit, s.units[i].cycles);
    print_field("busy cycles", units);
}

void print_device(const Inspected &inspected) {
    for (const PtxModule &module : inspected.device) {
        print_field("PTX", fmt::format("{}, version {}, {}", module.target, module.version,
                                       counted(module.entries.size(), "kernel")));
        for (const PtxEntry &entry : module.entries) {
            fmt::print("    {}: {}, {} virtual registers, {} shared\n", entry.name,
                       counted(entry.instructions, "instruction"), entry.registers, human_bytes(entry.shared_bytes));
            for (const PtxAssembled &a : inspected.assembled) {
                if (a.entry != entry.name) continue;
                fmt::print("      ptxas       {} registers, {} stack, {} spilled, {} shared\n", a.registers,
                           human_bytes(static_cast<std::uintmax_t>(a.stack_bytes)),
                           human_bytes(static_cast<std::uintmax_t>(a.spill_bytes)),
                           human_bytes(static_cast<std::uintmax_t>(a.shared_bytes)));
            }
            fmt::print("      all         {}\n", most_frequent(entry.mix, 10));
            if (!entry.hot_mix.empty()) {
                fmt::print("      hot loop    {} instructions: {}\n", entry.hot_loop.size(),
                           most_frequent(entry.hot_mix, 10));
            }
        }
    }
}

std::string title(const Inspected &inspected) {
    const ObjectReport &object = inspected.object;
    if (object.kernel.empty()) return object.name;
    if (!inspected.row) return object.kernel + ": not in the kernel list; its path is guessed";
    return fmt::format("{}: {} {}{}", object.kernel, qconv_op_name(inspected.row->layout.op), inspected.row->name,
                       inspected.target ? " for " + inspected.target->name : "");
}

} // namespace

Json inspected_json(const Inspected &inspected) {
    const ObjectReport &object = inspected.object;
    Json json = {{"object", object.name}, {"kernel", object.kernel}};
    if (inspected.row) {
        json["row"] = inspected.row->name;
        json["op"] = qconv_op_name(inspected.row->layout.op);
        json["path"] = qconv_path_name(inspected.row->layout.path);
    }
    if (inspected.target) json["target"] = inspected.target->name;
    json["halide_target"] = object.halide_target;
    json["format"] = object.format;
    json["bytes"] = {{"object", object.file_bytes},
                     {"code", object.code_bytes},
                     {"constants", object.constant_bytes},
                     {"data", object.data_bytes}};
    json["symbols"] = {{"defined", object.defined}, {"needed", object.undefined}};
    json["instructions"] = object.instructions;
    for (const auto &[bits, count] : object.widths)
        json["instructions_by_vector_bits"][std::to_string(bits)] = count;
    json["vector_instructions"] = counts_json(object.mnemonics);
    if (object.hot_loop) json["hot_loop"] = loop_json(inspected);
    if (!inspected.device.empty()) json["device_code"] = device_json(inspected);
    return json;
}

void print_inspected(const Inspected &inspected) {
    const ObjectReport &object = inspected.object;
    fmt::print("{}\n", title(inspected));
    print_field("target", object.halide_target);
    print_field("size", fmt::format("{} code, {} constants, {} data; object {} ({})", human_bytes(object.code_bytes),
                                    human_bytes(object.constant_bytes), human_bytes(object.data_bytes),
                                    human_bytes(object.file_bytes), object.format));
    print_field("symbols", first_of(object.defined, 6));
    print_field("needs", first_of(object.undefined, 12));
    std::string widths;
    for (auto width = object.widths.rbegin(); width != object.widths.rend(); ++width)
        widths += width->first ? fmt::format("{} of {} bits, ", width->second, width->first)
                               : fmt::format("{} without vectors", width->second);
    print_field("instructions", fmt::format("{}: {}", object.instructions, widths));
    print_field("vector mix", most_frequent(object.mnemonics, 10));
    if (object.hot_loop) print_loop(inspected);
    print_device(inspected);
    fmt::print("\n");
}

void print_inspected_table(const std::vector<Inspected> &inspected) {
    fmt::print("{:<44} {:<18} {:>9} {:>9} {:>10} {:>10} {:>8}\n", "kernel", "cpu", "code", "object", "loop MACs",
               "MACs/cycle", "% limit");
    for (const Inspected &one : inspected) {
        const ObjectReport &object = one.object;
        fmt::print("{:<44} {:<18} {:>9} {:>9}", object.kernel.empty() ? object.name : object.kernel, one.cpu,
                   human_bytes(object.code_bytes), human_bytes(object.file_bytes));
        if (object.hot_loop && object.hot_loop->simulation) {
            const LoopReport &loop = *object.hot_loop;
            const double rate = loop.macs / loop.simulation->cycles;
            fmt::print(" {:>10.0f} {:>10.1f} {:>8}", loop.macs, rate,
                       loop.limit ? fmt::format("{:.1f}", 100 * rate / *loop.limit) : "-");
        }
        fmt::print("\n");
    }
}

} // namespace qconv::tools
