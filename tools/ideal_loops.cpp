#include "tools/ideal_loops.h"

#include <algorithm>
#include <string_view>

#include "tools/peaks.h"

namespace qconv::tools {
namespace {

struct ArmLoop {
    const char *architecture; // a Halide target begins with it
    const char *feature;      // and holds this
    PeakKind kind;
    const char *instructions;
    const char *step; // @ is the accumulator's number
    double macs;      // of a step
};

// The first that fits.
const ArmLoop kArmLoops[] = {
    {"arm-64", "arm_dot_prod", PeakKind::Popcount, "eor + cnt + udot, 128 bits",
     "eor v30.16b, v28.16b, v29.16b\ncnt v30.16b, v30.16b\nudot v@.4s, v30.16b, v31.16b\n", 128},
    {"arm-64", "", PeakKind::Popcount, "eor + cnt + uadalp, 128 bits",
     "eor v30.16b, v28.16b, v29.16b\ncnt v30.16b, v30.16b\nuadalp v@.8h, v30.16b\n", 128},
    {"arm-64", "arm_dot_prod", PeakKind::Dot, "sdot, 128 bits", "sdot v@.4s, v28.16b, v29.16b\n", 16},
    {"arm-64", "", PeakKind::Dot, "smlal, 128 bits", "smlal v@.4s, v28.4h, v29.4h\n", 4},
    {"arm-64", "", PeakKind::Fma, "fmla, 128 bits", "fmla v@.4s, v28.4s, v29.4s\n", 4},
    {"arm-32", "", PeakKind::Popcount, "veor + vcnt + vpadal, 128 bits",
     "veor q14, q12, q13\nvcnt.8 q14, q14\nvpadal.u8 q@, q14\n", 128},
    {"arm-32", "", PeakKind::Dot, "vmlal, 128 bits", "vmlal.s16 q@, d24, d25\n", 4},
    {"arm-32", "", PeakKind::Fma, "vmla, 128 bits", "vmla.f32 q@, q12, q13\n", 4},
};

const ArmLoop *find_arm_loop(const TargetInfo &target, PeakKind kind) {
    for (const ArmLoop &loop : kArmLoops) {
        if (loop.kind != kind || !target.halide.starts_with(loop.architecture)) continue;
        if (target.halide.find(loop.feature) != std::string::npos) return &loop;
    }
    return nullptr;
}

/// Not the host's side of a GPU kernel, which only launches it.
bool is_x86(const TargetInfo &target) {
    const std::vector<TargetInfo> &gpus = known_device_targets();
    return target.halide.starts_with("x86-64") && std::ranges::find(gpus, target.name, &TargetInfo::name) == gpus.end();
}

} // namespace

inspect::PeakLoop ideal_loop(const TargetInfo &target, qconv_path path) {
    constexpr int kAccumulators = 12;
    if (path == QCONV_PATH_F32B1) return {};
    const PeakKind kind = peak_kind(path);
    if (is_x86(target)) {
        const PeakBody body = peak_body(kind, target.name);
        return {body.assembly, body.macs};
    }
    const ArmLoop *loop = find_arm_loop(target, kind);
    if (!loop) return {};
    inspect::PeakLoop ideal;
    for (int i = 0; i < kAccumulators; i++) {
        std::string step = loop->step;
        step.replace(step.find('@'), 1, std::to_string(i));
        ideal.assembly += step;
    }
    ideal.macs = kAccumulators * loop->macs;
    return ideal;
}

std::string ideal_instructions(const TargetInfo &target, qconv_path path) {
    const PeakKind kind = peak_kind(path);
    if (is_x86(target)) return peak_instructions(kind, target.name);
    const ArmLoop *loop = find_arm_loop(target, kind);
    return loop ? loop->instructions : "";
}

std::string typical_cpu(const TargetInfo &target) {
    const auto has = [&](std::string_view feature) { return target.halide.find(feature) != std::string::npos; };
    if (is_x86(target)) {
        if (has("avx512_zen4")) return "znver4";
        if (has("avx512")) return "skylake-avx512";
        return has("avx2") ? "haswell" : "sandybridge";
    }
    if (target.halide.starts_with("arm-64")) return has("sve") ? "neoverse-v1" : "neoverse-n1";
    return target.halide.starts_with("arm-32") ? "cortex-a57" : "";
}

} // namespace qconv::tools
