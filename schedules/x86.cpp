// Schedules for x86-64: SSE4.1, AVX2 and AVX-512.
#include "schedules/cpu.h"

namespace qconv::schedules {

namespace {

class X86 : public Cpu {
    // Measured on AVX2: taps in place lie far apart, and their loads cost more than a copy. Not on AVX-512.
    bool lays_out_patches(const Halide::Target &target) const override {
        return !target.has_feature(Halide::Target::AVX512);
    }
};

} // namespace

const Schedules &x86() {
    static const X86 schedules;
    return schedules;
}

} // namespace qconv::schedules
