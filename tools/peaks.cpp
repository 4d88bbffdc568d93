#include "tools/peaks.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>

namespace qconv::tools {
namespace {

// Every loop is one assembly block over registers 0 to 15: the file compiles for the baseline x86-64, and optimisation
// settings cannot change what is measured. Registers 0 to 7 (popcount) or 0 to 11 (dot, fma) accumulate, the next two
// are the operands, the rest are temporaries. Clobbering xmmN covers ymmN and zmmN.
#define QCONV_CLOBBERS                                                                                               \
    "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
        "xmm13", "xmm14", "xmm15"
#define QCONV_EIGHT(STEP) STEP("0") STEP("1") STEP("2") STEP("3") STEP("4") STEP("5") STEP("6") STEP("7")
#define QCONV_TWELVE(STEP) QCONV_EIGHT(STEP) STEP("8") STEP("9") STEP("10") STEP("11")
#define QCONV_SIXTEEN(STEP) QCONV_TWELVE(STEP) STEP("12") STEP("13") STEP("14") STEP("15")

// Zeros are the operands of the dot and float loops (nothing overflows, no denormals); the popcount loops compare a
// register of zeros with one of ones.
#define QCONV_ZERO_VEX(R) "vpxor %%xmm" R ", %%xmm" R ", %%xmm" R "\n"
#define QCONV_ZERO_SSE(R) "pxor %%xmm" R ", %%xmm" R "\n"

#define QCONV_LOOP(PREPARE, BODY, FINISH)                                                                          \
    const char *const body = BODY;                                                                                 \
    void run(int64_t count) {                                                                                      \
        asm volatile(PREPARE ".p2align 5\n1:\n" BODY "decq %0\njnz 1b\n" FINISH : "+r"(count) : : QCONV_CLOBBERS); \
    }
// NOLINTBEGIN(bugprone-macro-parentheses): text, joined to its neighbours
#define QCONV_LOOP_VEX(PREPARE, BODY) QCONV_LOOP(QCONV_SIXTEEN(QCONV_ZERO_VEX) PREPARE, BODY, "vzeroupper\n")
#define QCONV_LOOP_SSE(PREPARE, BODY) QCONV_LOOP(QCONV_SIXTEEN(QCONV_ZERO_SSE) PREPARE, BODY, "")
// NOLINTEND(bugprone-macro-parentheses)

// ---- xor + popcount + add
// --------------------------------------------------------------------------------------------

namespace popcount_zen4 {
#define STEP(R) "vpxord %%zmm12, %%zmm13, %%zmm15\nvpopcntd %%zmm15, %%zmm15\nvpaddd %%zmm15, %%zmm" R ", %%zmm" R "\n"
QCONV_LOOP_VEX("vpternlogd $255, %%zmm12, %%zmm12, %%zmm12\n", QCONV_EIGHT(STEP))
#undef STEP
} // namespace popcount_zen4

// Without a popcount instruction: each byte's two nibbles look their counts up, and byte counters take both. A counter
// of bytes must be widened at least every 31 steps; that work is not in the loop, nor are carry-save adders, which
// trade lookups for logic. Register 12 is an operand, 13 the nibble mask, 14 the lookup table.
namespace popcount_avx512 {
#define STEP(R)                                                                                                \
    "vpxord %%zmm12, %%zmm14, %%zmm15\nvpandd %%zmm13, %%zmm15, %%zmm11\nvpsrlw $4, %%zmm15, %%zmm15\n"        \
    "vpandd %%zmm13, %%zmm15, %%zmm15\nvpshufb %%zmm11, %%zmm14, %%zmm11\nvpshufb %%zmm15, %%zmm14, %%zmm15\n" \
    "vpaddb %%zmm11, %%zmm" R ", %%zmm" R "\nvpaddb %%zmm15, %%zmm" R ", %%zmm" R "\n"
QCONV_LOOP_VEX("vpternlogd $255, %%zmm12, %%zmm12, %%zmm12\n", QCONV_EIGHT(STEP))
#undef STEP
} // namespace popcount_avx512

namespace popcount_avx2 {
#define STEP(R)                                                                                               \
    "vpxor %%ymm12, %%ymm14, %%ymm15\nvpand %%ymm13, %%ymm15, %%ymm11\nvpsrlw $4, %%ymm15, %%ymm15\n"         \
    "vpand %%ymm13, %%ymm15, %%ymm15\nvpshufb %%ymm11, %%ymm14, %%ymm11\nvpshufb %%ymm15, %%ymm14, %%ymm15\n" \
    "vpaddb %%ymm11, %%ymm" R ", %%ymm" R "\nvpaddb %%ymm15, %%ymm" R ", %%ymm" R "\n"
QCONV_LOOP_VEX("vpcmpeqd %%ymm12, %%ymm12, %%ymm12\n", QCONV_EIGHT(STEP))
#undef STEP
} // namespace popcount_avx2

// Two-operand instructions need copies: of an operand, of the shifted half and of the table, twice.
namespace popcount_sse41 {
#define STEP(R)                                                                                        \
    "movdqa %%xmm14, %%xmm15\npxor %%xmm12, %%xmm15\nmovdqa %%xmm15, %%xmm11\npsrlw $4, %%xmm15\n"     \
    "pand %%xmm13, %%xmm11\npand %%xmm13, %%xmm15\nmovdqa %%xmm14, %%xmm10\npshufb %%xmm11, %%xmm10\n" \
    "movdqa %%xmm14, %%xmm11\npshufb %%xmm15, %%xmm11\npaddb %%xmm10, %%xmm" R "\npaddb %%xmm11, %%xmm" R "\n"
QCONV_LOOP_SSE("pcmpeqd %%xmm12, %%xmm12\n", QCONV_EIGHT(STEP))
#undef STEP
} // namespace popcount_sse41

// ---- dot products
// ----------------------------------------------------------------------------------------------------

namespace dot_zen4 {
#define STEP(R) "vpdpbusd %%zmm12, %%zmm13, %%zmm" R "\n"
QCONV_LOOP_VEX("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace dot_zen4

namespace dot_avx512 {
#define STEP(R) "vpmaddwd %%zmm12, %%zmm13, %%zmm15\nvpaddd %%zmm15, %%zmm" R ", %%zmm" R "\n"
QCONV_LOOP_VEX("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace dot_avx512

namespace dot_avx2 {
#define STEP(R) "vpmaddwd %%ymm12, %%ymm13, %%ymm15\nvpaddd %%ymm15, %%ymm" R ", %%ymm" R "\n"
QCONV_LOOP_VEX("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace dot_avx2

namespace dot_sse41 {
#define STEP(R) "movdqa %%xmm13, %%xmm15\npmaddwd %%xmm12, %%xmm15\npaddd %%xmm15, %%xmm" R "\n"
QCONV_LOOP_SSE("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace dot_sse41

// ---- float multiply and add
// ------------------------------------------------------------------------------------------

namespace fma_avx512 {
#define STEP(R) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" R "\n"
QCONV_LOOP_VEX("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace fma_avx512

namespace fma_avx2 {
#define STEP(R) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" R "\n"
QCONV_LOOP_VEX("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace fma_avx2

namespace fma_sse41 {
#define STEP(R) "movaps %%xmm13, %%xmm15\nmulps %%xmm12, %%xmm15\naddps %%xmm15, %%xmm" R "\n"
QCONV_LOOP_SSE("", QCONV_TWELVE(STEP))
#undef STEP
} // namespace fma_sse41

struct Loop {
    const char *target;
    PeakKind kind;
    const char *instructions;
    const char *body;
    void (*run)(int64_t count);
    double macs; // of one pass through the loop body
};

const Loop kLoops[] = {
    {"avx512_zen4", PeakKind::Popcount, "vpxord + vpopcntd + vpaddd, zmm", popcount_zen4::body, popcount_zen4::run,
     8 * 512},
    {"avx512", PeakKind::Popcount, "nibble lookup (vpshufb) into byte counters, zmm", popcount_avx512::body,
     popcount_avx512::run, 8 * 512},
    {"avx2", PeakKind::Popcount, "nibble lookup (vpshufb) into byte counters, ymm", popcount_avx2::body,
     popcount_avx2::run, 8 * 256},
    {"sse41", PeakKind::Popcount, "nibble lookup (pshufb) into byte counters, xmm", popcount_sse41::body,
     popcount_sse41::run, 8 * 128},
    {"avx512_zen4", PeakKind::Dot, "vpdpbusd, zmm", dot_zen4::body, dot_zen4::run, 12 * 64},
    {"avx512", PeakKind::Dot, "vpmaddwd + vpaddd, zmm", dot_avx512::body, dot_avx512::run, 12 * 32},
    {"avx2", PeakKind::Dot, "vpmaddwd + vpaddd, ymm", dot_avx2::body, dot_avx2::run, 12 * 16},
    {"sse41", PeakKind::Dot, "pmaddwd + paddd, xmm", dot_sse41::body, dot_sse41::run, 12 * 8},
    {"avx512_zen4", PeakKind::Fma, "vfmadd231ps, zmm", fma_avx512::body, fma_avx512::run, 12 * 16},
    {"avx512", PeakKind::Fma, "vfmadd231ps, zmm", fma_avx512::body, fma_avx512::run, 12 * 16},
    {"avx2", PeakKind::Fma, "vfmadd231ps, ymm", fma_avx2::body, fma_avx2::run, 12 * 8},
    {"sse41", PeakKind::Fma, "mulps + addps, xmm", fma_sse41::body, fma_sse41::run, 12 * 4},
};

const Loop &find_loop(PeakKind kind, const std::string &target) {
    for (const Loop &loop : kLoops)
        if (loop.kind == kind && target == loop.target) return loop;
    throw std::invalid_argument("no peak loop for target '" + target + "'; allowed: sse41, avx2, avx512, avx512_zen4");
}

double seconds_of(const Loop &loop, int64_t count) {
    const auto start = std::chrono::steady_clock::now();
    loop.run(count);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

} // namespace

const char *peak_name(PeakKind kind) {
    switch (kind) {
        case PeakKind::Popcount:
            return "popcount";
        case PeakKind::Dot:
            return "dot";
        default:
            return "fma";
    }
}

const char *peak_instructions(PeakKind kind, const std::string &target) {
    return find_loop(kind, target).instructions;
}

PeakBody peak_body(PeakKind kind, const std::string &target) {
    const Loop &loop = find_loop(kind, target);
    std::string text;
    // Operands of inline assembly write % twice.
    for (const char *c = loop.body; *c; c++) {
        if (c[0] != '%' || c[1] != '%') text += *c;
    }
    return {text, loop.macs};
}

PeakKind peak_kind(qconv_path path) {
    switch (path) {
        case QCONV_PATH_B1B1:
            return PeakKind::Popcount;
        case QCONV_PATH_INT8:
            return PeakKind::Dot;
        default:
            return PeakKind::Fma;
    }
}

double measure_peak(PeakKind kind, const std::string &target, double seconds) {
    const Loop &loop = find_loop(kind, target);
    // About 60 microseconds a burst: short enough that most bursts see no interruption, so that the best one is clean.
    constexpr int64_t kCount = 10000;
    seconds_of(loop, kCount / 10);
    double best = 0, elapsed = 0;
    while (elapsed < seconds || best == 0) {
        const double burst = seconds_of(loop, kCount);
        best = std::max(best, static_cast<double>(kCount) * loop.macs / burst);
        elapsed += burst;
    }
    return best;
}

void PeakMeter::sample(PeakKind kind) {
    samples_[static_cast<size_t>(kind)].push_back(measure_peak(kind, target_, 5e-4));
}

void PeakMeter::sample() {
    for (int kind = 0; kind < static_cast<int>(PeakKind::Kinds); kind++)
        sample(static_cast<PeakKind>(kind));
}

double PeakMeter::median(PeakKind kind) const {
    std::vector<double> sorted = of(kind);
    if (sorted.empty()) return 0;
    std::sort(sorted.begin(), sorted.end());
    const size_t half = sorted.size() / 2;
    return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

double PeakMeter::best(PeakKind kind) const {
    return of(kind).empty() ? 0 : *std::max_element(of(kind).begin(), of(kind).end());
}

} // namespace qconv::tools
