#include "tools/targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "runtime/cpu_features.h"
#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {

const std::vector<TargetInfo> &known_targets() {
    static const std::vector<TargetInfo> targets = [] {
        std::vector<TargetInfo> list;
        for (const KernelTarget &target : kernel_targets())
            list.push_back({target.name, target.halide_target});
        std::reverse(list.begin(), list.end());
        return list;
    }();
    return targets;
}

const TargetInfo &find_target(const std::string &text) {
    const KernelTarget *found = qconv::find_target(text);
    std::vector<std::string> names;
    for (const TargetInfo &target : known_targets()) {
        if (found && target.name == found->name) return target;
        names.push_back(target.name);
    }
    std::vector<std::string> known = {"host", "all"};
    known.insert(known.end(), names.begin(), names.end());
    throw InputError(
        fmt::format("--target '{}' is unknown{}; allowed: host, all, {}, or a Halide target string of one of "
                    "these families (qconvc list targets)",
                    text, did_you_mean(text, known), join(names)));
}

std::vector<TargetInfo> find_targets(const std::vector<std::string> &texts) {
    std::vector<TargetInfo> found;
    const auto add = [&](const TargetInfo &target) {
        const auto same = [&](const TargetInfo &other) { return other.name == target.name; };
        if (std::none_of(found.begin(), found.end(), same)) found.push_back(target);
    };
    for (const std::string &text : texts) {
        if (text == "host") {
            if (supported_targets().empty()) throw EnvironmentError("--target host: this CPU lacks even SSE4.1");
            add(supported_targets().back());
        } else if (text == "all") {
            std::for_each(known_targets().begin(), known_targets().end(), add);
        } else {
            add(find_target(text));
        }
    }
    return found;
}

std::vector<TargetInfo> supported_targets() {
    std::vector<TargetInfo> found;
    std::copy_if(known_targets().begin(), known_targets().end(), std::back_inserter(found),
                 [](const TargetInfo &target) { return missing_cpu_feature(target).empty(); });
    return found;
}

std::string missing_cpu_feature(const TargetInfo &target) {
    return missing_feature(*qconv::find_target(target.name), cpu_features());
}

void require_cpu_support(const TargetInfo &target) {
    const std::string missing = missing_cpu_feature(target);
    if (missing.empty()) return;
    throw EnvironmentError(
        fmt::format("--target {}: this CPU cannot run its kernels, it lacks {}", target.name, missing));
}

} // namespace qconv::tools
