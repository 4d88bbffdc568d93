// All that the runtime knows of architectures, but for clones.h and float_environment.h.
#include "cpu_features.h"

#include <array>
#include <mutex>
#include <new>

#if defined(__x86_64__)
#include <cpuid.h>
#elif (defined(__aarch64__) || defined(__arm__)) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qconv {
namespace {

using enum CpuFeature;

// Halide picks LLVM's -mcpu from the target: penryn, haswell, skylake-avx512 and znver4 for our four. LLVM may then use
// any instruction of that CPU on its own account, whatever the schedule asks for. So each set below is what LLVM
// selects without being told to; sse4a is there since LLVM lowers some shuffles of znver4 to extrq and insertq.
constexpr CpuFeatures needs_sse41{Sse3, Ssse3, Sse41};
constexpr CpuFeatures needs_avx2 =
    needs_sse41 | CpuFeatures{Sse42, Popcnt, Movbe, Lzcnt, Bmi1, Bmi2, Avx, F16c, Fma, Avx2};
constexpr CpuFeatures needs_avx512 = needs_avx2 | CpuFeatures{Avx512f, Avx512cd, Avx512bw, Avx512dq, Avx512vl};
constexpr CpuFeatures needs_avx512_zen4 =
    needs_avx512 | CpuFeatures{Sse4a,           Avx512ifma, Avx512vbmi, Avx512vbmi2, Avx512vnni, Avx512bitalg,
                               Avx512vpopcntdq, Avx512bf16, Gfni,       Vaes,        Vpclmulqdq};

// On ARM LLVM is told the features one by one, beyond the baseline of AArch64, or cortex-a9 with NEON on ARM32.
constexpr CpuFeatures needs_arm64{Asimd};
constexpr CpuFeatures needs_arm64_dotprod = needs_arm64 | CpuFeatures{Asimddp};

constexpr std::array targets{
    KernelTarget{"arm64_dotprod", "arm-64-linux-arm_dot_prod", 128, needs_arm64_dotprod},
    KernelTarget{"arm64", "arm-64-linux", 128, needs_arm64},
    KernelTarget{"arm32", "arm-32-linux", 128, CpuFeatures{Neon}},
    KernelTarget{"avx512_zen4",
                 "x86-64-linux-sse41-avx-f16c-fma-avx2-avx512-avx512_skylake-avx512_cannonlake-avx512_zen4", 512,
                 needs_avx512_zen4},
    KernelTarget{"avx512", "x86-64-linux-sse41-avx-f16c-fma-avx2-avx512-avx512_skylake", 512, needs_avx512},
    KernelTarget{"avx2", "x86-64-linux-sse41-avx-f16c-fma-avx2", 256, needs_avx2},
    KernelTarget{"sse41", "x86-64-linux-sse41", 128, needs_sse41},
};

constexpr std::array devices{
    // PTX for compute capability 8.0, which the driver compiles for the GPU at hand.
    KernelTarget{"cuda", "x86-64-linux-sse41-cuda-cuda_capability_80", 1024, needs_sse41, DeviceKind::Cuda},
    KernelTarget{"opencl", "x86-64-linux-sse41-opencl", 1024, needs_sse41, DeviceKind::OpenCl},
};

constexpr std::array<const char *, static_cast<int>(CpuFeature::Count)> feature_names{
    "sse3",        "ssse3",        "sse4.1",      "sse4.2",        "sse4a",
    "popcnt",      "movbe",        "lzcnt",       "bmi1",          "bmi2",
    "avx",         "f16c",         "fma",         "avx2",          "avx512f",
    "avx512cd",    "avx512bw",     "avx512dq",    "avx512vl",      "avx512ifma",
    "avx512vbmi",  "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq",
    "avx512_bf16", "gfni",         "vaes",        "vpclmulqdq",    "asimd",
    "asimddp",     "neon"};

struct CpuidBit {
    CpuFeature feature;
    std::uint32_t CpuidWords::*word;
    int bit;
};

constexpr std::array cpuid_bits{
    CpuidBit{Sse3, &CpuidWords::leaf1_ecx, 0},          CpuidBit{Ssse3, &CpuidWords::leaf1_ecx, 9},
    CpuidBit{Fma, &CpuidWords::leaf1_ecx, 12},          CpuidBit{Sse41, &CpuidWords::leaf1_ecx, 19},
    CpuidBit{Sse42, &CpuidWords::leaf1_ecx, 20},        CpuidBit{Movbe, &CpuidWords::leaf1_ecx, 22},
    CpuidBit{Popcnt, &CpuidWords::leaf1_ecx, 23},       CpuidBit{Avx, &CpuidWords::leaf1_ecx, 28},
    CpuidBit{F16c, &CpuidWords::leaf1_ecx, 29},         CpuidBit{Bmi1, &CpuidWords::leaf7_ebx, 3},
    CpuidBit{Avx2, &CpuidWords::leaf7_ebx, 5},          CpuidBit{Bmi2, &CpuidWords::leaf7_ebx, 8},
    CpuidBit{Avx512f, &CpuidWords::leaf7_ebx, 16},      CpuidBit{Avx512dq, &CpuidWords::leaf7_ebx, 17},
    CpuidBit{Avx512ifma, &CpuidWords::leaf7_ebx, 21},   CpuidBit{Avx512cd, &CpuidWords::leaf7_ebx, 28},
    CpuidBit{Avx512bw, &CpuidWords::leaf7_ebx, 30},     CpuidBit{Avx512vl, &CpuidWords::leaf7_ebx, 31},
    CpuidBit{Avx512vbmi, &CpuidWords::leaf7_ecx, 1},    CpuidBit{Avx512vbmi2, &CpuidWords::leaf7_ecx, 6},
    CpuidBit{Gfni, &CpuidWords::leaf7_ecx, 8},          CpuidBit{Vaes, &CpuidWords::leaf7_ecx, 9},
    CpuidBit{Vpclmulqdq, &CpuidWords::leaf7_ecx, 10},   CpuidBit{Avx512vnni, &CpuidWords::leaf7_ecx, 11},
    CpuidBit{Avx512bitalg, &CpuidWords::leaf7_ecx, 12}, CpuidBit{Avx512vpopcntdq, &CpuidWords::leaf7_ecx, 14},
    CpuidBit{Avx512bf16, &CpuidWords::leaf7_1_eax, 5},  CpuidBit{Lzcnt, &CpuidWords::extended1_ecx, 5},
    CpuidBit{Sse4a, &CpuidWords::extended1_ecx, 6},
};

struct HwcapBit {
    CpuFeature feature;
    HwcapBits bits;
    int bit;
};

constexpr std::array hwcap_bits{
    HwcapBit{Asimd, HwcapBits::Arm64, 1},
    HwcapBit{Asimddp, HwcapBits::Arm64, 20},
    HwcapBit{Neon, HwcapBits::Arm32, 12},
};
static_assert(cpuid_bits.size() + hwcap_bits.size() == static_cast<std::size_t>(CpuFeature::Count));

// Unusable while the operating system does not save the registers they work on.
constexpr CpuFeatures needs_zmm_state{Avx512f,    Avx512cd,    Avx512bw,   Avx512dq,     Avx512vl,        Avx512ifma,
                                      Avx512vbmi, Avx512vbmi2, Avx512vnni, Avx512bitalg, Avx512vpopcntdq, Avx512bf16};
constexpr CpuFeatures needs_ymm_state = needs_zmm_state | CpuFeatures{Avx, F16c, Fma, Avx2, Vaes, Vpclmulqdq};
constexpr std::uint64_t xcr0_ymm = 0x06; // SSE and AVX
constexpr std::uint64_t xcr0_zmm = 0xe6; // and the mask registers and both parts of the zmm file

#if defined(__x86_64__)
CpuFeatures read_features() {
    CpuidWords words;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return {};
    words.leaf1_ecx = ecx;
    constexpr unsigned osxsave = 1U << 27;
    if ((ecx & osxsave) != 0) {
        unsigned low = 0, high = 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        words.xcr0 = (std::uint64_t{high} << 32) | low;
    }
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
        words.leaf7_ebx = ebx;
        words.leaf7_ecx = ecx;
        const unsigned subleaves = eax;
        if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) words.leaf7_1_eax = eax;
    }
    if (__get_cpuid(0x80000001U, &eax, &ebx, &ecx, &edx) != 0) words.extended1_ecx = ecx;
    return decode_cpuid(words);
}
#elif (defined(__aarch64__) || defined(__arm__)) && defined(__linux__)
CpuFeatures read_features() {
    return decode_hwcap(getauxval(AT_HWCAP), sizeof(void *) == 8 ? HwcapBits::Arm64 : HwcapBits::Arm32);
}
#elif defined(__aarch64__)
// Elsewhere, what this file may be compiled for: at least the baseline.
CpuFeatures read_features() {
    CpuFeatures features{Asimd};
#if defined(__ARM_FEATURE_DOTPROD)
    features.add(Asimddp);
#endif
    return features;
}
#else
CpuFeatures read_features() {
    return {};
}
#endif

std::mutex override_mutex;
std::optional<CpuFeatures> overriding;

CpuFeatures detected_features() {
    static const CpuFeatures detected = read_features();
    return detected;
}

} // namespace

const char *cpu_feature_name(CpuFeature feature) {
    return feature_names[static_cast<std::size_t>(feature)];
}

std::span<const KernelTarget> kernel_targets() {
    return targets;
}

std::span<const KernelTarget> device_targets() {
    return devices;
}

const KernelTarget *find_target(std::string_view name) {
    for (const KernelTarget &target : devices) {
        if (name == target.name || name == target.halide_target) return &target;
    }
    for (const KernelTarget &target : targets) {
        if (name == target.name || name == target.halide_target) return &target;
    }
    return nullptr;
}

int target_rank(std::string_view name) {
    int rank = 0;
    while (rank < static_cast<int>(targets.size()) && name != targets[static_cast<std::size_t>(rank)].name)
        ++rank;
    return rank;
}

const KernelTarget *best_target(CpuFeatures features) {
    for (const KernelTarget &target : targets) {
        if (features.contains(target.needs)) return &target;
    }
    return nullptr;
}

const char *missing_feature(const KernelTarget &target, CpuFeatures features) {
    for (int i = 0; i < static_cast<int>(CpuFeature::Count); ++i) {
        const auto feature = static_cast<CpuFeature>(i);
        if (target.needs.has(feature) && !features.has(feature)) return cpu_feature_name(feature);
    }
    return "";
}

CpuFeatures decode_cpuid(const CpuidWords &words) {
    CpuFeatures features;
    for (const CpuidBit &entry : cpuid_bits) {
        if ((words.*entry.word >> entry.bit & 1U) != 0) features.add(entry.feature);
    }
    if ((words.xcr0 & xcr0_ymm) != xcr0_ymm) features = features.without(needs_ymm_state);
    if ((words.xcr0 & xcr0_zmm) != xcr0_zmm) features = features.without(needs_zmm_state);
    return features;
}

CpuFeatures decode_hwcap(std::uint64_t hwcap, HwcapBits bits) {
    CpuFeatures features;
    for (const HwcapBit &entry : hwcap_bits) {
        if (entry.bits == bits && (hwcap >> entry.bit & 1U) != 0) features.add(entry.feature);
    }
    return features;
}

CpuFeatures cpu_features() {
    const CpuFeatures detected = detected_features();
    const std::lock_guard lock(override_mutex);
    return overriding.value_or(detected);
}

const AcrossFork features_across_fork{
    [] {
        detected_features();
        override_mutex.lock();
    },
    [] { override_mutex.unlock(); },
    [] { new (&override_mutex) std::mutex; },
};

void override_cpu_features(std::optional<CpuFeatures> features) {
    const std::lock_guard lock(override_mutex);
    overriding = features;
}

} // namespace qconv
