// Targets from CPU features given as a parameter, and features from what CPUs and kernels say of themselves.
#include "runtime/cpu_features.h"

#include <string>
#include <vector>

#include "support/catch.h"

namespace qconv::test {
namespace {

CpuFeatures everything() {
    CpuFeatures all;
    for (const KernelTarget &target : kernel_targets())
        all = all | target.needs;
    return all;
}

TEST_CASE("cpu_features: targets by features", "[cpu_features]") {
    std::vector<std::string> order;
    for (const KernelTarget &target : kernel_targets()) {
        order.emplace_back(target.name);
        CHECK(best_target(target.needs) == &target);
        CHECK(find_target(target.name) == &target);
        CHECK(find_target(target.halide_target) == &target);
        CHECK(std::string(missing_feature(target, target.needs)) == "");
        // Without any one of its features it is out, and the message says which.
        for (int f = 0; f < static_cast<int>(CpuFeature::Count); ++f) {
            const auto feature = static_cast<CpuFeature>(f);
            if (!target.needs.has(feature)) continue;
            CpuFeatures fewer = everything();
            fewer.remove(feature);
            const KernelTarget *best = best_target(fewer);
            INFO(target.name << " without " << cpu_feature_name(feature));
            CHECK((best == nullptr || std::string(best->name) != target.name));
            CHECK(std::string(missing_feature(target, fewer)) == cpu_feature_name(feature));
        }
    }
    CHECK(order ==
          std::vector<std::string>{"arm64_dotprod", "arm64", "arm32", "avx512_zen4", "avx512", "avx2", "sse41"});
    CHECK(best_target({}) == nullptr);
    CHECK(find_target("avx1024") == nullptr);
    CHECK(find_target("") == nullptr);
    CHECK(target_rank("avx1024") == static_cast<int>(kernel_targets().size()));
}

TEST_CASE("cpu_features: from cpuid words", "[cpu_features]") {
    CpuidWords all;
    all.leaf1_ecx = all.leaf7_ebx = all.leaf7_ecx = all.leaf7_1_eax = all.extended1_ecx = ~0u;
    const auto best = [&](uint64_t xcr0) {
        CpuidWords words = all;
        words.xcr0 = xcr0;
        return std::string(best_target(decode_cpuid(words))->name);
    };
    CHECK(best(0xe7) == "avx512_zen4");
    CHECK(best(0x07) == "avx2"); // the operating system does not save zmm registers
    CHECK(best(0x67) == "avx2"); // nor half of them
    CHECK(best(0x03) == "sse41");
    CHECK(best(0) == "sse41");
    CHECK(decode_cpuid(CpuidWords{}) == CpuFeatures{});
}

TEST_CASE("cpu_features: from hwcap", "[cpu_features]") {
    constexpr uint64_t asimd = 1u << 1, asimddp = 1u << 20, neon = 1u << 12;
    const auto best = [](uint64_t hwcap, HwcapBits bits) {
        const KernelTarget *target = best_target(decode_hwcap(hwcap, bits));
        return std::string(target == nullptr ? "" : target->name);
    };
    CHECK(best(asimd | asimddp, HwcapBits::Arm64) == "arm64_dotprod");
    CHECK(best(asimd, HwcapBits::Arm64) == "arm64");
    CHECK(best(asimddp, HwcapBits::Arm64) == "");
    CHECK(best(neon, HwcapBits::Arm32) == "arm32");
    CHECK(best(~neon, HwcapBits::Arm32) == ""); // the same bits mean other things there
    CHECK(best(0, HwcapBits::Arm64) == "");
}

} // namespace
} // namespace qconv::test
