// What a tuning run works on: one direction of one layer for one target, and the kernels that it tries there.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tools/emit.h"
#include "tools/layer_file.h"
#include "tools/targets.h"

namespace qconv::tools {

struct TuneUnit {
    LayerSpec layer; // width and batch are set
    qconv_op op = QCONV_OP_FORWARD;
    TargetInfo target;
    int threads = 1;

    /// A stable hash of all that a time depends on but the kernel and the machine; not the layer's name.
    std::string key() const;
    /// "conv1 grad-input avx2".
    std::string label() const;
    ShapeConstants shape() const;
    CallSizes sizes() const;
};

/// A kernel to try.
struct Candidate {
    std::string strategy;             // "default", "evolve", "adams2019", ...
    std::string base;                 // the row of kernels.json that it departs from
    std::map<std::string, int> knobs; // those of schedules/tuning.h, by name
    KernelRow row;
    uint64_t seed = 0; // what was drawn with it, for autoschedulers with random choices

    /// A stable hash of the unit and of what the kernel is compiled from.
    std::string id(const TuneUnit &unit) const;
};

/// The kernels of kernels.json that serve a unit, and what their knobs make of them.
class CandidateSpace {
public:
    explicit CandidateSpace(const TuneUnit &unit);

    /// What `qconvc compile` takes without records.
    Candidate default_candidate() const;
    /// Every row that serves the unit, as it is; the default's first.
    const std::vector<Candidate> &rows() const { return rows_; }
    /// Every valid combination of knobs on every row, rows as they are first, the others in a seeded order.
    std::vector<Candidate> grid(uint64_t seed) const;
    Candidate random(std::mt19937_64 &random) const;
    /// One or two knobs a step up or down, now and then another row.
    Candidate neighbour(const Candidate &from, std::mt19937_64 &random) const;

private:
    Candidate with_knobs(const Candidate &row, const std::map<std::string, int> &knobs) const;
    bool valid(const Candidate &candidate) const;

    TuneUnit unit_;
    std::vector<Candidate> rows_;
};

} // namespace qconv::tools
