#include "schedules/schedule.h"

#include <stdexcept>

namespace qconv::schedules {

const Schedules &schedules_for(const Halide::Target &target) {
    if (target.has_feature(Halide::Target::CUDA) || target.has_feature(Halide::Target::OpenCL)) return gpu();
    if (!target.has_gpu_feature()) {
        if (target.arch == Halide::Target::X86) return x86();
        if (target.arch == Halide::Target::ARM) return arm();
    }
    throw std::invalid_argument("no schedules for target " + target.to_string());
}

} // namespace qconv::schedules
