#include "tools/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tools/report.h"
#include "tools/text.h"

namespace qconv::tools {

Progress::Progress(std::size_t total, std::string what)
    : total_(total), what_(std::move(what)), terminal_(isatty(STDERR_FILENO) && !std::getenv("CI")) {
    if (terminal_) draw("");
}

Progress::~Progress() {
    if (terminal_) put_on_terminal("\r\033[K");
}

void Progress::advance(const std::string &step) {
    done_++;
    if (terminal_) {
        draw(step);
    } else {
        report(fmt::format("[{}/{}] {}", done_, total_, step));
    }
}

double Progress::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::draw(const std::string &step) const {
    winsize window{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
    const std::size_t columns = known ? window.ws_col : 80;
    constexpr std::size_t kBar = 24;
    const std::size_t filled = total_ ? kBar * done_ / total_ : kBar;
    std::string line = fmt::format("[{:#<{}}{:.<{}}] {}/{} {}", "", filled, "", kBar - filled, done_, total_, what_);
    if (done_ > 0 && done_ < total_) {
        const double left = seconds() / static_cast<double>(done_) * static_cast<double>(total_ - done_);
        line += fmt::format(", {} left", human_seconds(left));
    }
    if (!step.empty()) line += "  " + step;
    if (line.size() >= columns) line.resize(columns - 1);
    put_on_terminal("\r\033[K" + printable(line));
}

} // namespace qconv::tools
