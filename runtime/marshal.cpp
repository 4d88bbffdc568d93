#include "marshal.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "config.h"
#include "device.h"
#include "errors.h"
#include "memory.h"
#include "qconv/layout.h"

namespace qconv {
namespace {

// What stands in for a buffer that no kernel reads.
alignas(memory_alignment) std::array<std::uint8_t, memory_alignment> unread{};

} // namespace

Buffer::Buffer(CallContext &context, const void *data, halide_type_t type, std::initializer_list<std::int64_t> extents,
               std::initializer_list<std::int64_t> strides)
    : context_(context) {
    std::int64_t dense = 1;
    for (const std::int64_t extent : extents) {
        const auto d = static_cast<std::size_t>(buffer_.dimensions++);
        std::construct_at(&dims_.all[d], 0, narrow(extent), narrow(strides.size() == 0 ? dense : strides.begin()[d]));
        dense *= extent;
    }
    buffer_.type = type;
    buffer_.dim = dims_.all.data();
    if (context.device() != nullptr) {
        place_on_device(*context.device(), data);
        return;
    }
    buffer_.host = data == nullptr ? unread.data() : static_cast<std::uint8_t *>(const_cast<void *>(data));
}

void Buffer::place_on_device(const DeviceCall &call, const void *data) {
    const halide_device_interface_t *interface = call.device->interface();
    if (const std::uint64_t handle = call.uploaded(data); handle != 0) {
        buffer_.device = handle;
        buffer_.device_interface = interface;
        return;
    }
    const auto handle = reinterpret_cast<std::uint64_t>(data);
    wrapped_ = halide_device_wrap_native(&context_, &buffer_, handle, interface) == halide_error_code_success;
    if (!wrapped_) throw Error(QCONV_DEVICE_FAILED, std::string("device memory is not usable: ") + context_.error());
}

Buffer::~Buffer() {
    if (wrapped_) halide_device_detach_native(&context_, &buffer_);
}

void call_kernel(const qconv_kernel &kernel, void **arguments, const CallContext &context) {
    const ScratchScope scope(context.device());
    const int code = kernel.call(arguments);
    if (code == halide_error_code_out_of_memory) throw std::bad_alloc();
    if (code == halide_error_code_success) return;
    const std::string name = std::string(kernel.name) + "@" + kernel.target;
    if (context.device() != nullptr) throw_device_failure("kernel " + name, context.error());
    throw Error(QCONV_INTERNAL,
                "kernel " + name + " failed with code " + std::to_string(code) + ": " + context.error());
}

Edges edge_columns(const qconv_layer_config &config, std::int64_t width, std::int64_t width_out, float pad_delta) {
    if (pad_delta == 0) return {0, width_out};
    const std::int64_t left = ceil_div(config.pad_left, config.stride);
    const std::int64_t last_start = width - 1 - tap_span(config) + config.pad_left; // of a window inside on the right
    const std::int64_t right = last_start < 0 ? 0 : last_start / config.stride + 1;
    return {std::min(left, width_out), std::min(right, width_out)};
}

std::int32_t forward_kind(const qconv_quantizer &quantizer) {
    const bool sign = quantizer.kind == QCONV_APPROXSIGN || quantizer.kind == QCONV_SWISHSIGN;
    return sign ? QCONV_SIGN : quantizer.kind;
}

float top_level(const qconv_quantizer &quantizer) {
    const Representation form = representation(quantizer);
    return form.integer() ? static_cast<float>(form.top()) : 1.0F;
}

} // namespace qconv
