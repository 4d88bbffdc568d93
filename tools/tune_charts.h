// Charts of tuning records as inline SVG.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/tune_judge.h"

namespace qconv::tools {

/// Text that may stand in HTML.
std::string html_text(const std::string &text);
/// The CSS class that colours a strategy: the same on every chart.
std::string strategy_class(const std::string &strategy);

/// Every trial's time and the best so far, of each strategy, over the number of trials; times on a logarithmic axis.
std::string convergence_chart(const Judgement &judgement);

struct Bar {
    std::string label, css_class, text;
    double value;
    double mark = 0; // a line across the bar; 0: none
};
/// Horizontal bars from 0 to `most`.
std::string bar_chart(const std::vector<Bar> &bars, double most, const std::string &axis);

/// For one knob: the time of each trial over the unit's best, by value, and the least of each value joined by a line.
struct KnobPoint {
    int value;
    double slowdown;
    std::string css_class;
};
std::string knob_chart(const std::string &knob, const std::vector<KnobPoint> &points);

} // namespace qconv::tools
