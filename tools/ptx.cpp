#include "tools/ptx.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

namespace qconv::tools {
namespace {

std::string_view trim(std::string_view text) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
        text.remove_prefix(1);
    while (!text.empty() && (std::isspace(static_cast<unsigned char>(text.back())) || text.back() == ';'))
        text.remove_suffix(1);
    return text;
}

/// The word after `key`, up to a space or punctuation; "" if `key` is not there.
std::string word_after(std::string_view line, std::string_view key) {
    const std::size_t at = line.find(key);
    if (at == line.npos) return "";
    const std::string_view rest = trim(line.substr(at + key.size()));
    return std::string(rest.substr(0, rest.find_first_of(" (,;\t{")));
}

std::uint64_t number(std::string_view text) {
    std::uint64_t value = 0;
    for (const char c : text) {
        if (!std::isdigit(static_cast<unsigned char>(c))) break;
        value = 10 * value + static_cast<std::uint64_t>(c - '0');
    }
    return value;
}

/// Bytes of ".shared .align 16 .b8 name[1234]".
std::uint64_t shared_size(std::string_view line) {
    const std::size_t bracket = line.find('[');
    return line.starts_with(".shared") && bracket != line.npos ? number(line.substr(bracket + 1)) : 0;
}

/// "fma.rn.f32" of "@%p1 fma.rn.f32 %f1, ...".
std::string opcode(std::string_view line) {
    if (line.starts_with("@")) line = trim(line.substr(std::min(line.find_first_of(" \t"), line.size())));
    return std::string(line.substr(0, line.find_first_of(" \t;")));
}

using Counts = std::vector<std::pair<std::string, std::size_t>>;

Counts count(const std::vector<std::string> &lines, std::size_t first, std::size_t last) {
    std::map<std::string, std::size_t> counts;
    for (std::size_t i = first; i < last; i++)
        counts[opcode(lines[i])]++;
    Counts sorted(counts.begin(), counts.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto &a, const auto &b) { return a.second > b.second; });
    return sorted;
}

/// Instructions that multiply, in any of the ways kernels do.
std::size_t arithmetic(const Counts &counts) {
    std::size_t sum = 0;
    for (const auto &[name, times] : counts) {
        for (const std::string_view kind : {"popc", "dp4a", "dp2a", "fma.", "mad.", "xor.b", "lop3"})
            if (name.starts_with(kind)) sum += times;
    }
    return sum;
}

struct Body {
    std::vector<std::string> lines; // instructions
    std::map<std::string, std::size_t> labels;
};

void finish(const Body &body, PtxEntry &entry) {
    entry.instructions = body.lines.size();
    entry.mix = count(body.lines, 0, body.lines.size());
    std::vector<std::pair<std::size_t, std::size_t>> loops;
    for (std::size_t i = 0; i < body.lines.size(); i++) {
        if (!opcode(body.lines[i]).starts_with("bra")) continue;
        const std::string_view line = body.lines[i];
        const auto label = body.labels.find(std::string(trim(line.substr(line.find_last_of(" \t") + 1))));
        if (label != body.labels.end() && label->second <= i) loops.emplace_back(label->second, i + 1);
    }
    std::size_t most = 0;
    for (const auto &[first, last] : loops) {
        const bool outer = std::any_of(loops.begin(), loops.end(), [&, from = first, to = last](const auto &other) {
            return other.first >= from && other.second <= to && other != std::pair(from, to);
        });
        if (outer) continue;
        Counts mix = count(body.lines, first, last);
        if (const std::size_t work = arithmetic(mix); work > most || entry.hot_loop.empty()) {
            most = work;
            entry.hot_mix = std::move(mix);
            entry.hot_loop.assign(body.lines.begin() + static_cast<std::ptrdiff_t>(first),
                                  body.lines.begin() + static_cast<std::ptrdiff_t>(last));
        }
    }
}

} // namespace

PtxModule parse_ptx(const std::string &text) {
    PtxModule module;
    std::istringstream stream(text);
    std::string raw;
    std::optional<PtxEntry> entry;
    Body body;
    bool inside = false;
    while (std::getline(stream, raw)) {
        const std::string_view line = trim(std::string_view(raw).substr(0, raw.find("//")));
        if (line.empty()) continue;
        if (line.starts_with(".version")) module.version = word_after(line, ".version");
        if (line.starts_with(".target")) module.target = word_after(line, ".target");
        if (line.find(".entry") != line.npos) {
            entry.emplace().name = word_after(line, ".entry");
            body = {};
        }
        (entry ? entry->shared_bytes : module.shared_bytes) += shared_size(line);
        if (!entry) continue;
        if (line == "{") inside = true;
        if (line == "}") {
            finish(body, *entry);
            module.entries.push_back(std::move(*entry));
            entry.reset();
            inside = false;
            continue;
        }
        if (!inside || line == "{") continue;
        if (line.starts_with(".reg")) {
            if (const std::size_t open = line.find('<'); open != line.npos)
                entry->registers += number(line.substr(open + 1));
        } else if (line.back() == ':') {
            body.labels[std::string(line.substr(0, line.size() - 1))] = body.lines.size();
        } else if (!line.starts_with(".")) {
            body.lines.emplace_back(line);
        }
    }
    return module;
}

} // namespace qconv::tools
