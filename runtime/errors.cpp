#include "errors.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace qconv {
namespace {

// A plain buffer: recording an out-of-memory failure must not allocate.
thread_local std::array<char, 1024> text_of_last_error{};

} // namespace

const char *last_error() noexcept {
    return text_of_last_error.data();
}

void set_last_error(const char *text) noexcept {
    const std::size_t length = std::min(std::strlen(text), text_of_last_error.size() - 1);
    std::memcpy(text_of_last_error.data(), text, length);
    text_of_last_error[length] = '\0';
}

const char *status_name(qconv_status status) noexcept {
    switch (status) {
        case QCONV_OK:
            return "ok";
        case QCONV_INVALID_ARGUMENT:
            return "invalid argument";
        case QCONV_NO_KERNEL:
            return "no kernel";
        case QCONV_UNSUPPORTED_CPU:
            return "unsupported CPU";
        case QCONV_OUT_OF_MEMORY:
            return "out of memory";
        case QCONV_WORKSPACE_TOO_SMALL:
            return "workspace too small";
        case QCONV_INTERNAL:
            return "internal error";
        case QCONV_NO_DEVICE:
            return "no device";
        case QCONV_DEVICE_FAILED:
            return "device failed";
    }
    return "unknown status";
}

void throw_invalid(const std::string &name, const std::string &value, const std::string &allowed) {
    throw Error(QCONV_INVALID_ARGUMENT, name + " is " + value + "; " + allowed);
}

void require_pointer(const void *pointer, const char *name) {
    if (pointer == nullptr) throw_invalid(name, "NULL", "it must point to valid memory");
}

qconv_status record_current_exception() noexcept {
    try {
        throw;
    } catch (const Error &error) {
        set_last_error(error.what());
        return error.status();
    } catch (const std::bad_alloc &) {
        set_last_error("out of memory");
        return QCONV_OUT_OF_MEMORY;
    } catch (const std::exception &error) {
        set_last_error(error.what());
        return QCONV_INTERNAL;
    } catch (...) {
        set_last_error("unknown exception");
        return QCONV_INTERNAL;
    }
}

} // namespace qconv
