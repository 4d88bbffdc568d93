#include "tools/tune_unit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "qconv/layout.h"
#include "runtime/config.h"
#include "runtime/cpu_features.h"
#include "runtime/select.h"
#include "schedules/tuning.h"
#include "tools/compiler.h"
#include "tools/directions.h"
#include "tools/embedded.h"
#include "tools/layer_json.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

using schedules::Knob;
using schedules::KnobSpace;
using schedules::KnobUnit;

const KnobSpace *space_of(const std::string &generator) {
    for (const KnobSpace &space : schedules::knob_spaces())
        if (space.generator == generator) return &space;
    return nullptr;
}

/// Values of a knob for a target.
std::vector<int> values_of(const Knob &knob, const TargetInfo &target) {
    std::vector<int> values = knob.values;
    const int lanes = qconv::find_target(target.name)->vector_bits / 32;
    if (knob.unit == KnobUnit::Vectors)
        for (int &value : values)
            value *= lanes;
    return values;
}

int knob_of(const KernelRow &row, std::string_view name) {
    if (name == "tile_width") return row.layout.tile_width;
    const auto found = row.params.find(std::string(name));
    return found == row.params.end() ? 1 : std::stoi(found->second);
}

/// The row anew from its params, so that its layout agrees with them.
KernelRow rebuilt(KernelRow row, int tile_width) {
    row.layout.tile_width = tile_width;
    return parse_kernel_row(kernel_row_json(row));
}

} // namespace

std::string TuneUnit::key() const {
    LayerSpec unnamed = layer;
    unnamed.name.clear();
    return stable_hash(
        fmt::format("{}|{}|{}|{}", layer_json(unnamed).dump(), qconv_op_name(op), target.halide, threads));
}

std::string TuneUnit::label() const {
    return fmt::format("{} {} {}", layer.name, op_option(op), target.name);
}

ShapeConstants TuneUnit::shape() const {
    const qconv_layer_config &c = layer.config;
    return {c.in_channels, c.out_channels, c.kernel_size, c.stride, c.dilation, c.groups};
}

CallSizes TuneUnit::sizes() const {
    return {layer.width, width_out(layer.config, layer.width), layer.batch};
}

std::string Candidate::id(const TuneUnit &unit) const {
    KernelRow anonymous = row;
    anonymous.name.clear();
    anonymous.targets.clear();
    return stable_hash(unit.key() + kernel_row_json(anonymous));
}

CandidateSpace::CandidateSpace(const TuneUnit &unit) : unit_(unit) {
    const std::vector<KernelRow> list = parse_kernel_list(embedded_kernels_json);
    const KernelRow &chosen = choose_kernel(list, unit.layer, unit.op, unit.target);
    std::set<std::string> with_unit_stride; // generators that have rows for a stride of 1 alone
    const auto serves = [&](const KernelRow &row) {
        if (row.layout.op != unit.op) return false;
        if (std::find(row.targets.begin(), row.targets.end(), unit.target.name) == row.targets.end()) return false;
        qconv_kernel kernel = row.layout;
        kernel.name = row.name.c_str();
        kernel.target = unit.target.name.c_str();
        return std::isfinite(estimate_cost(kernel, unit.layer.config));
    };
    for (const KernelRow &row : list)
        if (serves(row) && row.layout.unit_stride) with_unit_stride.insert(row.generator);
    for (const KernelRow &row : list) {
        // For a shape both give the same code.
        if (!serves(row) || (!row.layout.unit_stride && with_unit_stride.contains(row.generator))) continue;
        Candidate candidate{"rows", row.name, {}, row, 0};
        candidate.row.targets = {unit.target.name};
        if (const KnobSpace *space = space_of(row.generator)) {
            for (const Knob &knob : space->knobs)
                candidate.knobs[std::string(knob.name)] = knob_of(row, knob.name);
        }
        const bool first = row.name == chosen.name && row.generator == chosen.generator;
        rows_.insert(first ? rows_.begin() : rows_.end(), std::move(candidate));
    }
    rows_.front().strategy = "default";
}

Candidate CandidateSpace::default_candidate() const {
    return rows_.front();
}

Candidate CandidateSpace::with_knobs(const Candidate &row, const std::map<std::string, int> &knobs) const {
    Candidate made = row;
    made.knobs = knobs;
    for (const auto &[name, value] : knobs)
        if (name != "tile_width") made.row.params[name] = std::to_string(value);
    // The tables of grad_weight hold positions: whole chunks of them.
    if (made.row.generator == "grad_weight_f32b1") {
        made.row.params["width_block"] = std::to_string(knobs.at("table_channels") * knobs.at("tables"));
    }
    const auto tile = knobs.find("tile_width");
    made.row = rebuilt(made.row, tile == knobs.end() ? 0 : tile->second);
    return made;
}

bool CandidateSpace::valid(const Candidate &candidate) const {
    const KnobSpace *space = space_of(candidate.row.generator);
    const qconv_kernel &k = candidate.row.layout;
    const auto &config = unit_.layer.config;
    const int lanes = qconv::find_target(unit_.target.name)->vector_bits / 32;
    if (space && !space->accumulators_a.empty()) {
        const auto vectors = [&](std::string_view name) {
            const int value = candidate.knobs.at(std::string(name));
            return name == "width_block" ? std::max(value / lanes, 1) : value;
        };
        const int outputs = candidate.row.generator == "grad_weight_f32f32" ? std::max(k.out_block / lanes, 1) : 1;
        const int sums = vectors(space->accumulators_a) * vectors(space->accumulators_b) * outputs;
        if (sums > schedules::most_accumulators) return false;
    }
    if (k.tables > 0 && (k.tables << k.table_channels) > schedules::most_table_entries) return false;
    // A block wider than its row, or a tile wider than the layer, computes padding alone.
    const bool to_input = unit_.op == QCONV_OP_GRAD_INPUT;
    const int64_t blocked = (to_input ? config.in_channels : config.out_channels) / config.groups;
    if (k.out_block > std::max<int64_t>({blocked, rows_.front().row.layout.out_block, lanes})) return false;
    const int64_t positions = to_input ? unit_.layer.width : unit_.sizes().width_out;
    if (k.tile_width > 2 * positions) return false;
    qconv_kernel kernel = k;
    kernel.name = candidate.row.name.c_str();
    kernel.target = unit_.target.name.c_str();
    return std::isfinite(estimate_cost(kernel, config));
}

std::vector<Candidate> CandidateSpace::grid(uint64_t seed) const {
    std::vector<Candidate> all;
    for (const Candidate &row : rows_) {
        const KnobSpace *space = space_of(row.row.generator);
        if (!space) continue;
        std::vector<std::map<std::string, int>> points = {{}};
        for (const Knob &knob : space->knobs) {
            std::vector<std::map<std::string, int>> more;
            for (const auto &point : points) {
                for (const int value : values_of(knob, unit_.target)) {
                    more.push_back(point);
                    more.back()[std::string(knob.name)] = value;
                }
            }
            points = std::move(more);
        }
        for (const auto &point : points) {
            Candidate made = with_knobs(row, point);
            made.strategy = "grid";
            if (valid(made)) all.push_back(std::move(made));
        }
    }
    std::mt19937_64 random(seed);
    // Not std::shuffle, whose order is the library's choice.
    for (std::size_t i = all.size(); i > 1; i--)
        std::swap(all[i - 1], all[random() % i]);
    all.insert(all.begin(), rows_.begin(), rows_.end());
    return all;
}

Candidate CandidateSpace::random(std::mt19937_64 &random) const {
    for (int attempt = 0; attempt < 1000; attempt++) {
        const Candidate &row = rows_[random() % rows_.size()];
        const KnobSpace *space = space_of(row.row.generator);
        if (!space) continue;
        std::map<std::string, int> knobs;
        for (const Knob &knob : space->knobs) {
            const std::vector<int> values = values_of(knob, unit_.target);
            knobs[std::string(knob.name)] = values[random() % values.size()];
        }
        Candidate made = with_knobs(row, knobs);
        made.strategy = "random";
        if (valid(made)) return made;
    }
    return default_candidate();
}

Candidate CandidateSpace::neighbour(const Candidate &from, std::mt19937_64 &random) const {
    constexpr uint64_t kOtherRow = 8; // one in so many
    for (int attempt = 0; attempt < 1000; attempt++) {
        if (random() % kOtherRow == 0) {
            Candidate other = rows_[random() % rows_.size()];
            // What both have in common stays.
            std::map<std::string, int> knobs = other.knobs;
            for (auto &[name, value] : knobs)
                if (from.knobs.contains(name) && random() % 2 == 0) value = from.knobs.at(name);
            other = with_knobs(other, knobs);
            other.strategy = "evolve";
            if (valid(other)) return other;
            continue;
        }
        const KnobSpace *space = space_of(from.row.generator);
        if (!space) break;
        std::map<std::string, int> knobs = from.knobs;
        const uint64_t changes = 1 + random() % 2;
        for (uint64_t i = 0; i < changes; i++) {
            const Knob &knob = space->knobs[random() % space->knobs.size()];
            const std::vector<int> values = values_of(knob, unit_.target);
            int &value = knobs.at(std::string(knob.name));
            const auto above = std::upper_bound(values.begin(), values.end(), value);
            const auto below = std::lower_bound(values.begin(), values.end(), value);
            const bool up = random() % 2 == 0;
            if (up && above != values.end()) value = *above;
            if (!up && below != values.begin()) value = *(below - 1);
        }
        if (knobs == from.knobs) continue;
        Candidate made = with_knobs(from, knobs);
        made.row.autoscheduler = {};
        made.strategy = "evolve";
        if (valid(made)) return made;
    }
    return this->random(random);
}

} // namespace qconv::tools
