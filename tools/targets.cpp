#include "tools/targets.h"

#include <Halide.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "runtime/cpu_features.h"
#include "tools/errors.h"
#include "tools/text.h"

namespace qconv::tools {

using Halide::Target;

namespace {

bool same_architecture(const Target &a, const Target &b) {
    return a.arch == b.arch && a.bits == b.bits;
}

std::string first_tokens(const std::string &dashed, int count) {
    std::size_t end = dashed.find('-');
    for (int i = 1; i < count && end != std::string::npos; i++)
        end = dashed.find('-', end + 1);
    return dashed.substr(0, end);
}

[[noreturn]] void throw_unknown(const std::string &text) {
    std::vector<std::string> names;
    for (const TargetInfo &target : known_targets())
        names.push_back(target.name);
    for (const TargetInfo &target : known_device_targets())
        names.push_back(target.name);
    std::vector<std::string> known = {"host", "all"};
    known.insert(known.end(), names.begin(), names.end());
    throw InputError(
        fmt::format("--target '{}' is unknown{}; allowed: host, all, {}, or a Halide target string of one of "
                    "these families (qconvc list targets)",
                    text, did_you_mean(text, known), join(names)));
}

/// Whether `wanted` names the feature that sets the family apart: the last of its string. One without any is the
/// baseline of its architecture.
bool belongs_to(const Target &wanted, const TargetInfo &family) {
    const std::string features = family.halide.substr(first_tokens(family.halide, 3).size());
    return features.empty() || wanted.has_feature(Target::feature_from_name(features.substr(features.rfind('-') + 1)));
}

TargetInfo find_family(const std::string &text) {
    const Target wanted(text);
    const std::vector<TargetInfo> &known = known_targets();
    const auto family = std::find_if(known.rbegin(), known.rend(), [&](const TargetInfo &target) {
        return same_architecture(wanted, Target(target.halide)) && belongs_to(wanted, target);
    });
    if (family == known.rend()) throw_unknown(text);
    Target target(family->halide);
    for (int i = 0; i < Target::FeatureEnd; i++) {
        const auto feature = static_cast<Target::Feature>(i);
        if (!wanted.has_feature(feature) || target.has_feature(feature)) continue;
        throw InputError(fmt::format("--target '{}': feature '{}' is not one of its family {} ({})", text,
                                     Target::feature_to_name(feature), family->name, family->halide));
    }
    if (wanted.os == target.os) return *family;
    target.os = wanted.os;
    const std::string halide = target.to_string();
    return {family->name, halide,
            family->name + "_" + first_tokens(halide, 3).substr(first_tokens(halide, 2).size() + 1)};
}

} // namespace

const std::vector<TargetInfo> &known_targets() {
    static const std::vector<TargetInfo> targets = [] {
        std::vector<TargetInfo> list;
        for (const KernelTarget &target : kernel_targets())
            list.push_back({target.name, target.halide_target, target.name});
        std::reverse(list.begin(), list.end());
        return list;
    }();
    return targets;
}

const std::vector<TargetInfo> &known_device_targets() {
    static const std::vector<TargetInfo> targets = [] {
        std::vector<TargetInfo> list;
        for (const KernelTarget &target : device_targets())
            list.push_back({target.name, target.halide_target, target.name});
        return list;
    }();
    return targets;
}

TargetInfo find_target(const std::string &text) {
    for (const std::vector<TargetInfo> *list : {&known_targets(), &known_device_targets()}) {
        for (const TargetInfo &target : *list) {
            if (target.name == text || target.halide == text) return target;
        }
    }
    if (!Target::validate_target_string(text)) throw_unknown(text);
    return find_family(text);
}

std::string platform(const TargetInfo &target) {
    return first_tokens(target.halide, 3);
}

std::string archive_file(const std::string &name, const TargetInfo &target) {
    const bool windows = Target(target.halide).os == Target::Windows;
    return windows ? name + ".lib" : "lib" + name + ".a";
}

std::vector<TargetInfo> find_targets(const std::vector<std::string> &texts) {
    std::vector<TargetInfo> found;
    const auto add = [&](const TargetInfo &target) {
        const auto same = [&](const TargetInfo &other) { return other.label == target.label; };
        if (std::none_of(found.begin(), found.end(), same)) found.push_back(target);
    };
    for (const std::string &text : texts) {
        if (text == "host") {
            if (supported_targets().empty()) throw EnvironmentError("--target host: this CPU runs none of the targets");
            add(supported_targets().back());
        } else if (text == "all") {
            for (const TargetInfo &target : known_targets()) {
                if (same_architecture(Target(target.halide), Halide::get_host_target())) add(target);
            }
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
    if (target.label != target.name) {
        throw EnvironmentError(fmt::format("--target {}: its kernels run on another operating system", target.halide));
    }
    const std::string missing = missing_cpu_feature(target);
    if (missing.empty()) return;
    throw EnvironmentError(
        fmt::format("--target {}: this CPU cannot run its kernels, it lacks {}", target.name, missing));
}

} // namespace qconv::tools
