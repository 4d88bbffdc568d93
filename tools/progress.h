// Progress on standard error: a bar with the time left on a terminal, one plain line a step otherwise.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace qconv::tools {

class Progress {
public:
    /// `what` names a step in the plural, for the last line: "kernels".
    Progress(std::size_t total, std::string what);
    ~Progress();
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;

    /// One step is done; `step` says which, and what came of it.
    void advance(const std::string &step);
    double seconds() const;

private:
    void draw(const std::string &step) const;
    std::size_t total_, done_ = 0;
    std::string what_;
    bool terminal_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

} // namespace qconv::tools
