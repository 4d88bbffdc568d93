#include "tools/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>

namespace qconv::tools {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); i++) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < b.size(); j++) {
            const std::size_t replaced = diagonal + (std::tolower(a[i]) != std::tolower(b[j]));
            diagonal = row[j + 1];
            row[j + 1] = std::min({replaced, row[j + 1] + 1, row[j] + 1});
        }
    }
    return row.back();
}

} // namespace

std::string nearest(std::string_view word, const std::vector<std::string> &candidates) {
    std::string best;
    std::size_t least = std::max<std::size_t>(2, word.size() / 2) + 1;
    for (const std::string &candidate : candidates) {
        // A word cut short is a misspelling too: "kernel" for "kernel_size".
        const std::size_t distance =
            std::min(edit_distance(word, candidate), edit_distance(word, candidate.substr(0, word.size())) + 1);
        if (distance < least && distance < candidate.size()) least = distance, best = candidate;
    }
    return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string> &candidates) {
    const std::string near = nearest(word, candidates);
    return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

std::string join(const std::vector<std::string> &words, std::string_view separator) {
    return fmt::format("{}", fmt::join(words, separator));
}

std::string printable(std::string_view text) {
    std::string shown;
    for (std::size_t i = 0; i < text.size(); i++) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
        if (text[i] == '\n') {
            shown += "\\n";
        } else if (byte < 0x20 || byte == 0x7f) {
            shown += fmt::format("\\x{:02x}", byte);
        } else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) { // the control characters of Unicode's second row
            shown += fmt::format("\\x{:02x}", next);
            i++;
        } else {
            shown += text[i];
        }
    }
    return shown;
}

std::string one_line(std::string_view lines) {
    std::string words;
    while (!lines.empty()) {
        const std::string_view line = lines.substr(0, lines.find('\n'));
        lines.remove_prefix(std::min(line.size() + 1, lines.size()));
        const auto first = std::min(line.find_first_not_of(" \t"), line.size());
        if (first < line.size()) words.append(words.empty() ? "" : " ").append(line.substr(first));
    }
    return words;
}

std::string counted(std::size_t count, std::string_view noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string identifier(std::string_view text) {
    const auto is = [](int (*test)(int), char c) { return test(static_cast<unsigned char>(c)) != 0; };
    std::string out;
    if (text.empty() || is(std::isdigit, text[0])) out += '_';
    for (const char c : text)
        out += is(std::isalnum, c) ? c : '_';
    return out;
}

std::string stable_hash(std::string_view text) {
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text)
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return fmt::format("{:016x}", hash);
}

std::string human_bytes(std::uintmax_t bytes) {
    if (bytes < 1024) return fmt::format("{} B", bytes);
    const double kb = static_cast<double>(bytes) / 1024;
    return kb < 1024 ? fmt::format("{:.1f} KB", kb) : fmt::format("{:.1f} MB", kb / 1024);
}

std::string human_seconds(double seconds) {
    if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
    if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
    if (seconds < 90) return fmt::format("{:.1f} s", seconds);
    const auto whole = static_cast<int64_t>(seconds);
    return fmt::format("{} min {} s", whole / 60, whole % 60);
}

} // namespace qconv::tools
