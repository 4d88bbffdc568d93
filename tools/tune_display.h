// What a tuning run shows while it runs: on a terminal a table of the best so far, kept in place; else a line a trial.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "tools/tune_build.h"

namespace qconv::tools {

class TuneDisplay {
public:
    struct Line {
        std::string label;
        std::size_t trials = 0, failures = 0;
        double standard = 0, best = 0, percent = 0; // microseconds, of peak
        std::string strategy;                       // of the best
    };

    /// `wanted`: trials of the whole run, 0 if a time limits it; `seconds`: that time.
    TuneDisplay(std::vector<Line> lines, std::size_t wanted, double seconds);

    Line &line(std::size_t unit) { return lines_[unit]; }
    /// A trial of this unit is recorded.
    void recorded(std::size_t unit, const Trial &trial);
    /// What is going on, below the table.
    void say(const std::string &what);
    /// Leaves the table as it is.
    void close();

private:
    void draw(const std::string &what);
    double elapsed() const;

    std::vector<Line> lines_;
    std::size_t wanted_, done_ = 0, before_ = 0, drawn_ = 0;
    double seconds_;
    bool terminal_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// "out_block=8 width_block=32", or an autoscheduler's params.
std::string describe_candidate(const Candidate &candidate);

} // namespace qconv::tools
