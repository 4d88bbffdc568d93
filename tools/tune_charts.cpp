#include "tools/tune_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace qconv::tools {
namespace {

/// A plot area inside an SVG element.
class Plot {
public:
    Plot(double width, double height) : width_(width), height_(height) {
        text_ = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">", width_, height_);
    }

    static constexpr double left = 62, right = 14, top = 12, bottom = 34;
    double inner_width() const { return width_ - left - right; }
    double inner_height() const { return height_ - top - bottom; }
    double x(double fraction) const { return left + fraction * inner_width(); }
    double y(double fraction) const { return top + (1 - fraction) * inner_height(); }

    void line(double x1, double y1, double x2, double y2, const std::string &css) {
        text_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>", x1, y1, x2,
                             y2, css);
    }
    void dot(double cx, double cy, double r, const std::string &css, const std::string &title) {
        text_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" class=\"{}\"><title>{}</title></circle>", cx,
                             cy, r, css, html_text(title));
    }
    void path(const std::vector<std::pair<double, double>> &points, const std::string &css) {
        if (points.empty()) return;
        text_ += "<path d=\"";
        for (std::size_t i = 0; i < points.size(); i++)
            text_ += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", points[i].first, points[i].second);
        text_ += fmt::format("\" class=\"{}\"/>", css);
    }
    void label(double at_x, double at_y, const std::string &text, const char *anchor = "middle") {
        text_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", at_x, at_y, anchor,
                             html_text(text));
    }
    void rectangle(double at_x, double at_y, double w, double h, const std::string &css, const std::string &title) {
        text_ += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"{}\"><title>{}</title></rect>",
            at_x, at_y, w, h, css, html_text(title));
    }
    std::string done() { return text_ + "</svg>"; }

private:
    double width_, height_;
    std::string text_;
};

/// 1, 2, 5 times a power of ten within [low, high]; the ends too if that is fewer than two.
std::vector<double> log_ticks(double low, double high) {
    std::vector<double> ticks;
    for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10)
        for (const double step : {1, 2, 5})
            if (decade * step >= low && decade * step <= high) ticks.push_back(decade * step);
    if (ticks.size() < 2) ticks = {low, high};
    return ticks;
}

} // namespace

std::string html_text(const std::string &text) {
    std::string safe;
    for (const char c : text) {
        switch (c) {
            case '<':
                safe += "&lt;";
                break;
            case '>':
                safe += "&gt;";
                break;
            case '&':
                safe += "&amp;";
                break;
            case '"':
                safe += "&quot;";
                break;
            default:
                safe += c;
        }
    }
    return safe;
}

std::string strategy_class(const std::string &strategy) {
    static const std::vector<std::string> known = {"default",       "evolve", "random",    "grid",
                                                   "mullapudi2016", "li2018", "adams2019", "anderson2021"};
    const auto found = std::find(known.begin(), known.end(), strategy);
    return fmt::format("s{}", found - known.begin());
}

std::string convergence_chart(const Judgement &judgement) {
    double low = INFINITY, high = 0;
    for (const TuneRecord *record : judgement.trials)
        if (record->ok()) low = std::min(low, record->time()), high = std::max(high, record->time());
    if (high == 0) return "";
    // Far outliers would press what matters into a line.
    high = std::min(high, 12 * low);
    low *= 0.95, high *= 1.05;
    Plot plot(560, 260);
    const auto vertical = [&](double time) {
        return plot.y(std::clamp(std::log(time / low) / std::log(high / low), 0.0, 1.0));
    };
    const double last = std::max<double>(1, static_cast<double>(judgement.trials.size()) - 1);
    for (const double tick : log_ticks(low, high)) {
        plot.line(plot.x(0), vertical(tick), plot.x(1), vertical(tick), "grid");
        plot.label(plot.x(0) - 6, vertical(tick) + 4, fmt::format("{:.4g}", tick), "end");
    }
    plot.label(14, plot.y(1) + 2, "us", "start");
    plot.label(plot.x(0.5), plot.y(0) + 28, fmt::format("trial, 1 to {}", judgement.trials.size()));
    std::map<std::string, std::vector<std::pair<double, double>>> best;
    std::map<std::string, double> least;
    for (std::size_t i = 0; i < judgement.trials.size(); i++) {
        const TuneRecord &record = *judgement.trials[i];
        const double at = plot.x(static_cast<double>(i) / last);
        if (!record.ok()) {
            plot.line(at, plot.y(0), at, plot.y(0) - 6, "failed");
            continue;
        }
        const std::string css = strategy_class(record.strategy());
        const auto [place, fresh] = least.try_emplace(record.strategy(), record.time());
        if (!fresh) best[record.strategy()].push_back({at, vertical(place->second)});
        place->second = std::min(place->second, record.time());
        best[record.strategy()].push_back({at, vertical(place->second)});
        plot.dot(at, vertical(record.time()), 2.4, css,
                 fmt::format("trial {}, {}: {:.2f} us", i + 1, record.strategy(), record.time()));
    }
    for (auto &[strategy, points] : best) {
        points.push_back({plot.x(1), points.back().second});
        plot.path(points, "step " + strategy_class(strategy));
    }
    return plot.done();
}

std::string bar_chart(const std::vector<Bar> &bars, double most, const std::string &axis) {
    if (bars.empty() || !(most > 0)) return "";
    constexpr double kRow = 20, kValue = 76, kWidth = 640, kCharacter = 6.6;
    std::size_t longest = 0;
    for (const Bar &bar : bars)
        longest = std::max(longest, bar.label.size());
    const double label_width = std::min(kCharacter * static_cast<double>(longest) + 12, kWidth / 2);
    const double height = kRow * static_cast<double>(bars.size()) + 24, room = kWidth - label_width - kValue;
    Plot plot(kWidth, height);
    for (std::size_t i = 0; i < bars.size(); i++) {
        const Bar &bar = bars[i];
        const double top = kRow * static_cast<double>(i) + 2;
        const double length = std::clamp(bar.value / most, 0.0, 1.0) * room;
        plot.label(label_width - 6, top + 13, bar.label, "end");
        plot.rectangle(label_width, top, length, kRow - 5, bar.css_class, bar.label + ": " + bar.text);
        if (bar.mark > 0) {
            const double at = label_width + std::min(bar.mark / most, 1.0) * room;
            plot.line(at, top - 1, at, top + kRow - 4, "mark");
        }
        plot.label(label_width + length + 5, top + 13, bar.text, "start");
    }
    plot.label(label_width, height - 6, axis, "start");
    return plot.done();
}

std::string knob_chart(const std::string &knob, const std::vector<KnobPoint> &points) {
    std::set<int> values;
    for (const KnobPoint &point : points)
        values.insert(point.value);
    if (values.size() < 2) return "";
    constexpr double kMost = 4; // slower ones lie on the upper edge
    Plot plot(300, 190);
    const auto vertical = [&](double slowdown) {
        return plot.y(std::clamp(std::log(slowdown) / std::log(kMost), 0.0, 1.0));
    };
    for (const double tick : {1.0, 1.5, 2.0, 3.0, 4.0}) {
        plot.line(plot.x(0), vertical(tick), plot.x(1), vertical(tick), "grid");
        plot.label(plot.x(0) - 6, vertical(tick) + 4, fmt::format("{}x", tick), "end");
    }
    const double steps = static_cast<double>(values.size());
    std::vector<std::pair<double, double>> least;
    double place = 0.5;
    for (const int value : values) {
        const double at = plot.x(place / steps);
        place += 1;
        plot.label(at, plot.y(0) + 14, std::to_string(value));
        double best = INFINITY;
        for (const KnobPoint &point : points) {
            if (point.value != value) continue;
            best = std::min(best, point.slowdown);
            plot.dot(at, vertical(point.slowdown), 2.4, point.css_class,
                     fmt::format("{}={}: {:.2f} times the best", knob, value, point.slowdown));
        }
        least.push_back({at, vertical(best)});
    }
    plot.path(least, "least");
    plot.label(plot.x(0.5), plot.y(0) + 29, knob);
    return plot.done();
}

} // namespace qconv::tools
