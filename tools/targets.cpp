#include "tools/targets.h"

#include <fmt/format.h>

#include <set>
#include <sstream>

#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {
namespace {

/// OS and architecture in order, then the features as a set.
std::pair<std::string, std::set<std::string>> split_halide_target(const std::string &text) {
    std::istringstream stream(text);
    std::string base, part;
    std::set<std::string> features;
    for (int i = 0; std::getline(stream, part, '-'); i++) {
        if (i < 3) {
            base += (i ? "-" : "") + part;
        } else {
            features.insert(part);
        }
    }
    return {base, features};
}

} // namespace

const std::vector<TargetInfo> &known_targets() {
    static const std::string sse41 = "x86-64-linux-sse41";
    static const std::string avx2 = sse41 + "-avx-f16c-fma-avx2";
    static const std::string avx512 = avx2 + "-avx512-avx512_skylake";
    static const std::vector<TargetInfo> targets = {
        {"sse41", sse41, "SSE4.1 (any x86-64 since 2008)"},
        {"avx2", avx2, "AVX2, FMA, F16C (Haswell, Zen)"},
        {"avx512", avx512, "AVX-512 F, CD, VL, DQ, BW (Skylake-X)"},
        {"avx512_zen4", avx512 + "-avx512_cannonlake-avx512_zen4",
         "AVX-512 with VNNI, VPOPCNTDQ, BITALG, VBMI2, BF16 (Zen 4, Sapphire Rapids)"},
    };
    return targets;
}

const TargetInfo &find_target(const std::string &text) {
    const auto &targets = known_targets();
    const auto wanted = split_halide_target(text);
    std::vector<std::string> names = {"host", "all"}, short_names;
    for (const TargetInfo &target : targets) {
        if (text == target.name || wanted == split_halide_target(target.halide)) return target;
        names.push_back(target.name), short_names.push_back(target.name);
    }
    for (const TargetInfo &target : targets) names.push_back(target.halide);
    throw InputError(fmt::format("--target '{}' is unknown{}; allowed: host, all, {}, or the Halide target string of one "
                                 "of them (qconvc list targets)",
                                 text, did_you_mean(text, names), join(short_names)));
}

} // namespace qconv::tools
