#include "tools/tune_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tools/errors.h"
#include "tools/text.h"
#include "tools/tune_charts.h"
#include "tools/tune_judge.h"
#include "tools/tune_summary.h"

namespace qconv::tools {
namespace {

struct Section {
    std::string label;
    Judgement judgement;
};

constexpr const char *kStyle = R"(
:root { --ink: #1c2430; --soft: #5d6b7c; --line: #d7dde5; --paper: #ffffff; --panel: #f5f7fa;
  --s0: #1c2430; --s1: #1f77b4; --s2: #7b5ea7; --s3: #b07aa1; --s4: #d9822b; --s5: #2e8b57; --s6: #c43d4b; --s7: #8c6d31; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --soft: #9aa7b8; --line: #38424f; --paper: #14181e;
  --panel: #1c222a; --s0: #e6ebf2; --s1: #5aa9e6; --s2: #a58ad0; --s3: #d4a5c9; --s4: #f0a35e; --s5: #5fbf88;
  --s6: #ef7783; --s7: #c2a36a; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1400px;
  padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 8px; border-top: 1px solid var(--line);
  padding-top: 18px; } h3 { font-size: 14px; margin: 14px 0 4px; color: var(--soft); font-weight: 600; }
p { margin: 4px 0 10px; color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } th, td { padding: 3px 10px; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); } td:first-child, th:first-child,
td.text, th.text { text-align: left; } tr:nth-child(even) td { background: var(--panel); } td.win { font-weight: 700; }
td.long { white-space: normal; text-align: left; max-width: 720px; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 20px; }
.knobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 12px; }
@media (max-width: 800px) { .pair { grid-template-columns: minmax(0, 1fr); } }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); } .grid { stroke: var(--line); }
.mark { stroke: var(--ink); stroke-width: 2; } .failed { stroke: var(--s6); stroke-width: 2; }
path { fill: none; stroke-width: 1.8; } .least { stroke: var(--soft); stroke-dasharray: 3 3; }
.legend span { display: inline-block; margin-right: 16px; } .legend i { display: inline-block; width: 10px; height: 10px;
  border-radius: 5px; margin-right: 5px; }
)";

std::string strategy_style() {
    std::string css;
    for (int i = 0; i < 8; i++) {
        css += fmt::format(
            "circle.s{0}, rect.s{0} {{ fill: var(--s{0}); }} path.s{0} {{ stroke: var(--s{0}); }} "
            "i.s{0} {{ background: var(--s{0}); }}\n",
            i);
    }
    return css;
}

std::string figure(double value, int digits) {
    return fmt::format("{:.{}f}", value, digits);
}

std::string outcome_table(const std::vector<Section> &sections, const std::set<std::string> &strategies) {
    std::string html = "<div class=\"wide\"><table><tr><th>layer and direction</th><th>default us</th>";
    for (const std::string &strategy : strategies)
        if (strategy != "default") html += "<th>" + strategy + "</th>";
    html +=
        "<th>best us</th><th>gain</th><th>% of peak</th><th>trials</th><th>failed</th><th>minutes</th>"
        "<th class=\"text\">winner</th></tr>";
    for (const Section &section : sections) {
        const Judgement &j = section.judgement;
        std::size_t failed = 0;
        for (const auto &[name, count] : j.failures)
            failed += count;
        double seconds = 0;
        for (const TuneRecord *record : j.trials) {
            const auto &spent = record->json["seconds"];
            seconds += spent.value("compile", 0.0) + spent.value("measure", 0.0);
        }
        html += fmt::format("<tr><td>{}</td><td>{}</td>", html_text(section.label),
                            j.standard ? figure(j.standard->time(), 2) : "failed");
        for (const std::string &strategy : strategies) {
            if (strategy == "default") continue; // has its column
            const auto best = j.best_of.find(strategy);
            const bool tried = std::any_of(j.trials.begin(), j.trials.end(),
                                           [&](const TuneRecord *record) { return record->strategy() == strategy; });
            const bool wins = j.best && best != j.best_of.end() && best->second->id() == j.best->id();
            html += fmt::format("<td{}>{}</td>", wins ? " class=\"win\"" : "",
                                best != j.best_of.end() ? figure(best->second->time(), 2)
                                : tried                 ? "failed"
                                                        : "");
        }
        html += fmt::format(
            "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td>"
            "</tr>",
            j.best ? figure(j.best->time(), 2) : "", figure(j.gain, 3),
            j.best && j.best->percent_of_peak() > 0 ? figure(j.best->percent_of_peak(), 1) : "", j.trials.size(),
            failed, figure(seconds / 60, 1),
            j.best ? j.best->strategy() + (j.confirmed ? "" : ", not confirmed") : "none");
    }
    return html + "</table></div>";
}

std::string peak_bars(const std::vector<Section> &sections) {
    std::vector<Bar> bars;
    for (const Section &section : sections) {
        const Judgement &j = section.judgement;
        if (!j.best || !j.standard || j.best->percent_of_peak() <= 0) continue;
        bars.push_back({section.label, strategy_class(j.best->strategy()), figure(j.best->percent_of_peak(), 1) + "%",
                        j.best->percent_of_peak(), j.standard->percent_of_peak()});
    }
    // Lookup tables pass the peak, which is that of multiply-adds.
    double most = 100;
    for (const Bar &bar : bars)
        most = std::max({most, bar.value, bar.mark});
    const std::string chart = bar_chart(bars, most, "percent of this core's peak; the line is the default's");
    return chart.empty() ? "" : "<h2>Percent of peak</h2><div style=\"max-width:900px\">" + chart + "</div>";
}

std::string knob_charts(const Judgement &judgement) {
    std::map<std::string, std::vector<KnobPoint>> points;
    double best = INFINITY;
    for (const TuneRecord *record : judgement.trials)
        if (record->json["kernel"].contains("params")) best = std::min(best, record->time());
    std::map<std::string, int> rows;
    for (const TuneRecord *record : judgement.trials) {
        if (!record->ok() || record->json["kernel"].contains("autoscheduler")) continue;
        for (const auto &[name, value] : record->json.value("knobs", std::map<std::string, int>{}))
            points[name].push_back({value, record->time() / best, strategy_class(record->strategy())});
    }
    std::string html;
    for (const auto &[name, list] : points)
        html += knob_chart(name, list);
    return html.empty() ? ""
                        : "<h3>Effect of each knob: time over the best</h3><div class=\"knobs\">" + html + "</div>";
}

std::string failure_table(const Judgement &judgement) {
    std::map<std::pair<std::string, std::string>, std::pair<int, std::string>> kinds;
    for (const TuneRecord *record : judgement.trials) {
        if (record->ok()) continue;
        auto &[count, text] = kinds[{record->strategy(), record->failure()}];
        count++;
        if (text.empty()) text = record->json["failure"].value("text", "");
    }
    if (kinds.empty()) return "";
    std::string html =
        "<h3>Failures</h3><table><tr><th>strategy</th><th class=\"text\">class</th><th>times</th>"
        "<th class=\"text\">the first one says</th></tr>";
    for (const auto &[kind, seen] : kinds) {
        html += fmt::format("<tr><td>{}</td><td class=\"text\">{}</td><td>{}</td><td class=\"long\">{}</td></tr>",
                            kind.first, kind.second, seen.first, html_text(seen.second));
    }
    return html + "</table>";
}

std::string section_html(const Section &section) {
    const Judgement &j = section.judgement;
    const TuneRecord &any = *j.trials.front();
    std::string html = fmt::format("<h2>{}</h2><p>{}; {}; width {}, batch {}</p>", html_text(section.label),
                                   html_text(describe_layer(any.layer())), html_text(any.text("target")),
                                   any.layer().width, any.layer().batch);
    if (j.best) {
        std::string knobs;
        for (const auto &[name, value] : j.best->json.value("knobs", std::map<std::string, int>{}))
            knobs += fmt::format("{} {}={}", knobs.empty() ? ":" : ",", name, value);
        html += fmt::format("<p>Best: {} ({}), {} us{}</p>", html_text(j.best->json["kernel"].value("name", "")),
                            j.best->strategy(), figure(j.best->time(), 2), html_text(knobs));
    }
    std::vector<Bar> bars;
    double most = 0;
    for (const auto &[strategy, record] : j.best_of)
        most = std::max(most, record->time());
    for (const auto &[strategy, record] : j.best_of)
        bars.push_back({strategy, strategy_class(strategy), figure(record->time(), 2), record->time()});
    std::sort(bars.begin(), bars.end(), [](const Bar &a, const Bar &b) { return a.value < b.value; });
    html += "<div class=\"pair\"><div><h3>Convergence</h3>" + convergence_chart(j) +
            "</div><div><h3>The best of each strategy</h3>" +
            bar_chart(bars, most, "microseconds of a call: shorter is better") + "</div></div>";
    return html + knob_charts(j) + failure_table(j);
}

} // namespace

std::string tuning_report(const std::vector<TuneRecord> &records, const std::string &source) {
    std::vector<Section> sections;
    std::set<std::string> strategies, machines, versions;
    std::size_t trials = 0;
    double logs = 0, gains = 0;
    for (const UnitRecords &unit : by_unit(records)) {
        Section section{unit_label(*unit.records.front()), judge(unit.records)};
        trials += section.judgement.trials.size();
        for (const TuneRecord *record : section.judgement.trials)
            strategies.insert(record->strategy());
        if (section.judgement.standard && section.judgement.best) logs += std::log(section.judgement.gain), gains += 1;
        sections.push_back(std::move(section));
    }
    if (sections.empty()) throw InputError(fmt::format("{}: no record to report on", source));
    for (const TuneRecord &record : records) {
        const auto &machine = record.json["machine"];
        if (record.ok()) machines.insert(machine.value("cpu", "unknown CPU") + ", " + record.text("halide_target"));
        const auto &v = record.json["versions"];
        versions.insert(fmt::format("qconv {}, Halide {}, LLVM {}", v.value("qconv", "?"), v.value("halide", "?"),
                                    v.value("llvm", "?")));
    }
    std::string html =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>qconv tuning</title>"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>" +
        std::string(kStyle) + strategy_style() + "</style></head><body>\n<h1>qconv tuning</h1>";
    html += fmt::format("<p>{}, {}; geometric mean gain over the defaults: {}</p>", counted(sections.size(), "kernel"),
                        counted(trials, "trial"), gains > 0 ? figure(std::exp(logs / gains), 3) : "none");
    for (const std::string &machine : machines)
        html += "<p>" + html_text(machine) + "</p>";
    html += "<p>" + html_text(join({versions.begin(), versions.end()}, "; ")) + "; from " + html_text(source) + "</p>";
    html += "<p class=\"legend\">";
    for (const std::string &strategy : strategies)
        html += fmt::format("<span><i class=\"{}\"></i>{}</span>", strategy_class(strategy), strategy);
    html += "</p>\n" + outcome_table(sections, strategies) + peak_bars(sections);
    for (const Section &section : sections)
        if (!section.judgement.trials.empty()) html += section_html(section) + "\n"; // else only who won is known
    return html + "</body></html>\n";
}

} // namespace qconv::tools
