#include "tools/tune_display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tools/report.h"
#include "tools/text.h"

namespace qconv::tools {

std::string describe_candidate(const Candidate &candidate) {
    std::vector<std::string> words;
    for (const auto &[name, value] : candidate.knobs)
        words.push_back(fmt::format("{}={}", name, value));
    for (const auto &[name, value] : candidate.row.autoscheduler.params) {
        const auto slash = value.rfind('/');
        words.push_back(fmt::format("{}={}", name, slash == std::string::npos ? value : value.substr(slash + 1)));
    }
    return fmt::format("{} {}", candidate.base, join(words, " "));
}

TuneDisplay::TuneDisplay(std::vector<Line> lines, std::size_t wanted, double seconds)
    : lines_(std::move(lines)),
      wanted_(wanted),
      seconds_(seconds),
      terminal_(isatty(STDERR_FILENO) && !std::getenv("CI")) {
    for (const Line &line : lines_)
        before_ += line.trials;
    if (terminal_) draw("");
}

double TuneDisplay::elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void TuneDisplay::recorded(std::size_t unit, const Trial &trial) {
    Line &line = lines_[unit];
    done_++;
    line.trials++;
    const TuneRecord record{trial.record};
    if (!record.ok()) {
        line.failures++;
    } else {
        const double time = record.time();
        if (record.strategy() == "default" && (line.standard == 0 || time < line.standard)) line.standard = time;
        if (line.best == 0 || time < line.best) {
            line.best = time;
            line.percent = record.percent_of_peak();
            line.strategy = record.strategy();
        }
    }
    if (terminal_) {
        draw("");
        return;
    }
    const std::string what = record.ok() ? fmt::format("{:.2f} us, best {:.2f}", record.time(), line.best)
                                         : record.failure() + ": " + record.json["failure"].value("text", "");
    const std::size_t number = before_ + done_;
    report(fmt::format("[{}{}] {}: {}, {}: {}", number, wanted_ > 0 ? fmt::format("/{}", wanted_) : "", line.label,
                       record.strategy(), describe_candidate(trial.candidate), what));
}

void TuneDisplay::say(const std::string &what) {
    if (terminal_) {
        draw(what);
    } else {
        report(what);
    }
}

void TuneDisplay::close() {
    if (terminal_ && drawn_ > 0) put_on_terminal("\033[J");
    drawn_ = 0;
}

void TuneDisplay::draw(const std::string &what) {
    winsize window{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
    const std::size_t columns = known ? window.ws_col : 80, rows = known ? window.ws_row : 24;
    std::vector<std::string> text = {fmt::format("{:<44} {:>6} {:>6} {:>11} {:>11} {:>6} {:>7}  {}", "", "trials",
                                                 "failed", "default us", "best us", "gain", "% peak", "by")};
    for (const Line &line : lines_) {
        if (text.size() + 3 > rows) break;
        const double gain = line.best > 0 && line.standard > 0 ? line.standard / line.best : 0;
        text.push_back(fmt::format("{:<44} {:>6} {:>6} {:>11.2f} {:>11.2f} {:>6.3f} {:>7.1f}  {}",
                                   line.label.substr(0, 44), line.trials, line.failures, line.standard, line.best, gain,
                                   line.percent, line.strategy));
    }
    const double minutes = elapsed() / 60, rate = minutes > 0 ? static_cast<double>(done_) / minutes : 0;
    std::string last = fmt::format("{}{} trials, {:.1f} a minute", before_ + done_,
                                   wanted_ > 0 ? fmt::format(" of {}", wanted_) : "", rate);
    double left = seconds_ > 0 ? seconds_ - elapsed() : 0;
    if (wanted_ > before_ + done_ && rate > 0) {
        const double by_trials = static_cast<double>(wanted_ - before_ - done_) / rate * 60;
        left = seconds_ > 0 ? std::min(left, by_trials) : by_trials;
    }
    if (left > 0) last += fmt::format(", {} left", human_seconds(left));
    text.push_back(last + (what.empty() ? "" : "; " + what));
    std::string drawing = drawn_ > 0 ? fmt::format("\033[{}A", drawn_) : "";
    for (std::string &line : text) {
        if (line.size() >= columns) line.resize(columns - 1);
        drawing += "\r\033[K" + printable(line) + "\n";
    }
    drawn_ = text.size();
    put_on_terminal(drawing);
}

} // namespace qconv::tools
